// The few entries of ONNX Runtime's C interface that a custom operator needs, without its headers.
//
// The wheel of ONNX Runtime carries no headers. Its C interface is a table of function pointers that only ever grows at
// its end, and what a library asks for by GetApi(17) stays at its place: so the places below are facts about every
// version since 1.17. tests/runtimes/cpu_ops/test_abi.py compares them with the real headers where those are at hand.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace dit {

constexpr std::uint32_t kApiVersion = 17;  // the first with KernelContext_ParallelFor

struct ApiBase {
  const void* const* (*get_api)(std::uint32_t version);  // null where the library is older
  const char* (*get_version)();
};

// Places in OrtApi.
enum Slot : std::size_t {
  kCreateStatus = 0,
  kGetErrorMessage = 2,
  kCreateCustomOpDomain = 26,
  kCustomOpDomainAdd = 27,
  kAddCustomOpDomain = 28,
  kGetTensorMutableData = 51,
  kGetTensorElementType = 60,
  kGetDimensionsCount = 61,
  kGetDimensions = 62,
  kGetTensorTypeAndShape = 65,
  kKernelInfoGetAttributeFloat = 85,
  kKernelInfoGetAttributeInt64 = 86,
  kKernelContextGetInput = 90,
  kKernelContextGetOutput = 91,
  kReleaseStatus = 93,
  kReleaseTensorTypeAndShapeInfo = 99,
  kKernelInfoGetConstantInput = 249,
  kKernelContextParallelFor = 274,
};

// ONNXTensorElementDataType
enum ElementType : int { kUndefined = 0, kFloat = 1, kUint8 = 2, kInt8 = 3, kBfloat16 = 16 };

constexpr int kRequired = 0, kOptional = 1;  // OrtCustomOpInputOutputCharacteristic
constexpr int kInvalidArgument = 2;          // OrtErrorCode

// OrtCustomOp, its functions in their order. A class that derives from it has it as its first member.
struct CustomOp {
  std::uint32_t version;
  void* (*create_kernel)(const CustomOp*, const void* const* api, const void* info);
  const char* (*get_name)(const CustomOp*);
  const char* (*get_execution_provider)(const CustomOp*);
  int (*get_input_type)(const CustomOp*, std::size_t);
  std::size_t (*get_input_count)(const CustomOp*);
  int (*get_output_type)(const CustomOp*, std::size_t);
  std::size_t (*get_output_count)(const CustomOp*);
  void (*compute)(void* kernel, void* context);
  void (*destroy)(void* kernel);
  int (*get_input_characteristic)(const CustomOp*, std::size_t);
  int (*get_output_characteristic)(const CustomOp*, std::size_t);
  int (*get_input_memory_type)(const CustomOp*, std::size_t);
  int (*get_variadic_input_minimum)(const CustomOp*);
  int (*get_variadic_input_homogeneity)(const CustomOp*);
  int (*get_variadic_output_minimum)(const CustomOp*);
  int (*get_variadic_output_homogeneity)(const CustomOp*);
  void* (*create_kernel_v2)(const CustomOp*, const void* const* api, const void* info, void** kernel);
  void* (*compute_v2)(void* kernel, void* context);
  void* (*infer_shape)(const CustomOp*, void* context);
  // Of version 18. The library reads them in operators of version 17 too: they have to be there, and null.
  int (*get_start_version)(const CustomOp*);
  int (*get_end_version)(const CustomOp*);
  std::size_t (*get_may_inplace)(int** inputs, int** outputs);
  void (*release_may_inplace)(int* inputs, int* outputs);
  std::size_t (*get_alias_map)(int** inputs, int** outputs);
  void (*release_alias_map)(int* inputs, int* outputs);
};

// What a kernel throws; it reaches the user as a status that names the node.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A tensor of ONNX Runtime's, which owns its memory.
struct Tensor {
  ElementType type = kUndefined;
  std::vector<std::int64_t> shape;
  void* data = nullptr;

  bool present() const { return data != nullptr || type != kUndefined; }
  std::int64_t size() const;  // elements
  std::string text() const;   // "uint8[2, 256, 768]"
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

// The table of function pointers.
class Api {
 public:
  explicit Api(const void* const* table) : table_(table) {}

  // Raises Failure with ONNX Runtime's own words.
  void check(void* status) const;
  void* status(const std::string& message) const;

  float attribute(const void* info, const char* name, float otherwise) const;
  std::int64_t attribute(const void* info, const char* name, std::int64_t otherwise) const;
  Tensor constant(const void* info, std::size_t index) const;  // Failure where it is no initializer
  Tensor input(void* context, std::size_t index) const;        // absent where it is left out
  void* output(void* context, std::size_t index, const std::vector<std::int64_t>& shape) const;

  template <class Result, class... Arguments>
  Result call(Slot slot, Arguments... arguments) const {
    return reinterpret_cast<Result (*)(Arguments...)>(const_cast<void*>(table_[slot]))(arguments...);
  }

 private:
  Tensor tensor(const void* value) const;

  const void* const* table_;
};

// Runs tasks on the session's threads, the calling one among them.
class Parallel {
 public:
  Parallel(const Api& api, void* context) : api_(api), context_(context) {}

  // Raises Failure where a task raised anything, once all are done.
  template <class Task>
  void run(std::size_t count, const Task& task) const {
    if (count == 0) return;
    if (count == 1) return task(0);
    struct Shared {
      const Task& task;
      std::atomic<bool> failed{false};
    } shared{task};
    void (*each)(void*, std::size_t) = [](void* data, std::size_t index) {
      Shared& shared = *static_cast<Shared*>(data);
      try {  // nothing may be thrown through ONNX Runtime's threads
        shared.task(index);
      } catch (...) {
        shared.failed = true;
      }
    };
    // As many batches as tasks: a thread that is done takes the next one, so a disturbed core holds nobody up.
    api_.check(api_.call<void*, const void*, void (*)(void*, std::size_t), std::size_t, std::size_t, void*>(
        kKernelContextParallelFor, context_, each, count, count, &shared));
    if (shared.failed) throw Failure("not enough memory");
  }

 private:
  const Api& api_;
  void* context_;
};

}  // namespace dit
