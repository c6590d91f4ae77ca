// ONNX Runtime on buffers of the host that are bound once and reused by every step; runtimes/onnxruntime.py.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdlib>
#include <new>

#include "bundle/shapes.h"
#include "dit_deploy/errors.hpp"
#include "runtime/backends.h"
#include "runtime/element_type.h"

namespace dit_deploy::runtime {
namespace {

// Of a cache line, and of the widest vectors.
constexpr std::size_t kAlignment = 64;

// Memory filled with zeros, freed with the object.
class Memory {
 public:
  explicit Memory(std::size_t bytes)
      : data_(::operator new(std::max<std::size_t>(bytes, 1), std::align_val_t{kAlignment})) {
    std::fill_n(static_cast<char*>(data_), bytes, '\0');
  }
  Memory(Memory&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  Memory& operator=(Memory&&) = delete;
  ~Memory() {
    if (data_ != nullptr) ::operator delete(data_, std::align_val_t{kAlignment});
  }
  void* data() const { return data_; }

 private:
  void* data_;
};

// A session that is given up after everything that runs on it.
struct Loaded {
  std::shared_ptr<Ort::Session> session;
  Component component;
};

class HostBinding final : public Binding {
 public:
  HostBinding(std::shared_ptr<Loaded> loaded, const Sizes& sizes) : loaded_(std::move(loaded)), io_(*loaded_->session) {
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
    bind(
        loaded_->component.inputs, sizes, inputs_,
        [&](const char* name, const Ort::Value& value) { io_.BindInput(name, value); }, memory);
    bind(
        loaded_->component.outputs, sizes, outputs_,
        [&](const char* name, const Ort::Value& value) { io_.BindOutput(name, value); }, memory);
  }

  const HostTensor* input(std::string_view name) override { return find(inputs_, name); }
  const HostTensor* output(std::string_view name) override { return find(outputs_, name); }

  void run() override {
    try {
      loaded_->session->Run(options_, io_);
    } catch (const Ort::Exception& error) {
      throw BackendError("ONNX Runtime failed in " + loaded_->component.path + ": " + first_line(error.what()));
    }
  }

 private:
  struct Bound {
    std::string name;
    HostTensor tensor;
    Memory memory;
  };

  template <typename Bind>
  static void bind(const std::vector<bundle::TensorSpec>& specs, const Sizes& sizes, std::vector<Bound>& bound,
                   Bind&& give, const Ort::MemoryInfo& memory) {
    bound.reserve(specs.size());
    for (const auto& spec : specs) {
      HostTensor tensor;
      tensor.dtype = spec.dtype;
      tensor.shape = bundle::shape_of(spec, sizes);
      tensor.bytes = static_cast<std::size_t>(bundle::elements(tensor.shape)) * bundle::dtype_size(spec.dtype);
      Memory own(tensor.bytes);
      tensor.data = own.data();
      give(spec.name.c_str(), Ort::Value::CreateTensor(memory, tensor.data, tensor.bytes, tensor.shape.data(),
                                                       tensor.shape.size(), element_type(spec.dtype)));
      bound.push_back({spec.name, std::move(tensor), std::move(own)});
    }
  }

  static const HostTensor* find(const std::vector<Bound>& bound, std::string_view name) {
    for (const Bound& one : bound) {
      if (one.name == name) return &one.tensor;
    }
    return nullptr;
  }

  std::shared_ptr<Loaded> loaded_;
  Ort::IoBinding io_;
  Ort::RunOptions options_;
  std::vector<Bound> inputs_, outputs_;
};

class HostRunner final : public Runner {
 public:
  explicit HostRunner(std::shared_ptr<Loaded> loaded) : loaded_(std::move(loaded)) {}

  const Component& component() const override { return loaded_->component; }

  std::unique_ptr<Binding> bind(const Sizes& sizes) override {
    try {
      return std::make_unique<HostBinding>(loaded_, sizes);
    } catch (const Ort::Exception& error) {
      throw BackendError("ONNX Runtime refuses the buffers of " + loaded_->component.path + ": " +
                         first_line(error.what()));
    }
  }

 private:
  std::shared_ptr<Loaded> loaded_;
};

}  // namespace

std::unique_ptr<Runner> open_onnxruntime(const std::filesystem::path& path, Component component,
                                         const SessionSettings& settings) {
  const std::string what = path.filename().string() + " of " + path.parent_path().filename().string();
  return std::make_unique<HostRunner>(
      std::make_shared<Loaded>(Loaded{open_session(path, settings, what), std::move(component)}));
}

}  // namespace dit_deploy::runtime
