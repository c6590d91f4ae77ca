// TensorRTLibrary over NvInferRuntime.h: compiled once for the full library, and once with DIT_DEPLOY_RTX for
// TensorRT-RTX, each with its own headers. Nothing is linked; the library's few C functions are looked up.

#ifdef DIT_DEPLOY_RTX
// Classes of both have the same names and other layouts: in one program, inline functions of one would take the place of
// the other's.
#define nvinfer1 nvinfer1_rtx
#define nvonnxparser nvonnxparser_rtx
#endif
#include <NvInferRuntime.h>
#include <NvOnnxParser.h>

#include <cstdint>
#include <deque>
#include <exception>
#include <mutex>
#include <utility>

#include "dit_deploy/errors.hpp"
#include "runtime/dynamic_library.h"
#include "runtime/tensorrt_library.h"
#include "text.h"

#define DIT_DEPLOY_TEXT_(value) #value
#define DIT_DEPLOY_TEXT(value) DIT_DEPLOY_TEXT_(value)
#define DIT_DEPLOY_MAJOR DIT_DEPLOY_TEXT(NV_TENSORRT_MAJOR)
#define DIT_DEPLOY_MINOR DIT_DEPLOY_TEXT(NV_TENSORRT_MINOR)

namespace dit_deploy::runtime {
namespace {

#ifdef DIT_DEPLOY_RTX
constexpr char kTitle[] = "TensorRT-RTX";
#ifdef _WIN32
constexpr char kLibrary[] = "tensorrt_rtx_" DIT_DEPLOY_MAJOR "_" DIT_DEPLOY_MINOR ".dll";
constexpr char kParser[] = "tensorrt_onnxparser_rtx_" DIT_DEPLOY_MAJOR "_" DIT_DEPLOY_MINOR ".dll";
#else
constexpr char kLibrary[] = "libtensorrt_rtx.so." DIT_DEPLOY_MAJOR;
constexpr char kParser[] = "libtensorrt_onnxparser_rtx.so." DIT_DEPLOY_MAJOR;
#endif
#else
constexpr char kTitle[] = "TensorRT";
#ifdef _WIN32
constexpr char kLibrary[] = "nvinfer_" DIT_DEPLOY_MAJOR ".dll";
constexpr char kParser[] = "nvonnxparser_" DIT_DEPLOY_MAJOR ".dll";
#else
constexpr char kLibrary[] = "libnvinfer.so." DIT_DEPLOY_MAJOR;
constexpr char kParser[] = "libnvonnxparser.so." DIT_DEPLOY_MAJOR;
#endif
#endif

using MakeRuntime = void* (*)(void* logger, std::int32_t version);
using MakeRefitter = void* (*)(void* engine, void* logger, std::int32_t version);
using MakeParserRefitter = void* (*)(void* refitter, void* logger, int version);
using Version = std::int32_t (*)();

// Keeps errors instead of printing them.
class Logger final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity != Severity::kERROR && severity != Severity::kINTERNAL_ERROR) return;
    try {
      const std::lock_guard<std::mutex> lock(mutex_);
      lines_.push_back(one_line(message, 300));
      if (lines_.size() > kLines) lines_.pop_front();
    } catch (const std::exception&) {  // without memory there are other troubles
    }
  }

  // What was said since, joined, and forgotten.
  std::string take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::string text;
    for (const std::string& line : lines_) text += (text.empty() ? "" : " ") + line;
    lines_.clear();
    return text;
  }

 private:
  static constexpr std::size_t kLines = 20;
  std::mutex mutex_;
  std::deque<std::string> lines_;
};

nvinfer1::Dims dims_of(const Shape& shape) {
  nvinfer1::Dims dims{};
  dims.nbDims = shape.size() <= nvinfer1::Dims::MAX_DIMS ? static_cast<std::int32_t>(shape.size()) : -1;
  for (std::int32_t axis = 0; axis < dims.nbDims; ++axis) dims.d[axis] = shape[static_cast<std::size_t>(axis)];
  return dims;
}

Shape shape_from(const nvinfer1::Dims& dims) { return dims.nbDims < 0 ? Shape{} : Shape(dims.d, dims.d + dims.nbDims); }

class Context final : public TensorRTContext {
 public:
  Context(std::unique_ptr<nvinfer1::IRuntimeConfig> config, nvinfer1::IExecutionContext* context)
      : config_(std::move(config)), context_(context) {}

  bool set_profile(int profile, void* stream) override {
    return context_->setOptimizationProfileAsync(profile, static_cast<cudaStream_t>(stream));
  }
  bool set_input_shape(const std::string& name, const Shape& shape) override {
    return context_->setInputShape(name.c_str(), dims_of(shape));
  }
  std::size_t memory_size() override { return context_->updateDeviceMemorySizeForShapes(); }
  void set_memory(void* address, std::size_t bytes) override {
    context_->setDeviceMemoryV2(address, static_cast<std::int64_t>(bytes));
  }
  std::vector<std::string> unknown_shapes() override {
    const char* names[16] = {};
    const std::int32_t count = context_->inferShapes(16, names);
    if (count < 0) return {"its outputs"};
    std::vector<std::string> unknown;
    for (std::int32_t i = 0; i < count && i < 16; ++i) unknown.emplace_back(names[i]);
    return unknown;
  }
  Shape shape(const std::string& name) const override { return shape_from(context_->getTensorShape(name.c_str())); }
  bool set_address(const std::string& name, void* address) override {
    return context_->setTensorAddress(name.c_str(), address);
  }
  bool enqueue(void* stream) override { return context_->enqueueV3(static_cast<cudaStream_t>(stream)); }

 private:
  std::unique_ptr<nvinfer1::IRuntimeConfig> config_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
};

class Engine final : public TensorRTEngine {
 public:
  Engine(const DynamicLibrary& library, Logger& logger, nvinfer1::ICudaEngine* engine)
      : library_(library), logger_(logger), engine_(engine) {
#ifdef DIT_DEPLOY_RTX
    const std::unique_ptr<nvinfer1::IRuntimeConfig> config(engine_->createRuntimeConfig());
    if (config) cache_.reset(config->createRuntimeCache());
#endif
  }

  std::vector<std::string> tensors() const override {
    std::vector<std::string> names;
    for (std::int32_t i = 0; i < engine_->getNbIOTensors(); ++i) names.emplace_back(engine_->getIOTensorName(i));
    return names;
  }

  std::optional<DType> dtype(const std::string& tensor) const override {
    switch (engine_->getTensorDataType(tensor.c_str())) {
      case nvinfer1::DataType::kFLOAT:
        return DType::float32;
      case nvinfer1::DataType::kHALF:
        return DType::float16;
      case nvinfer1::DataType::kBF16:
        return DType::bfloat16;
      case nvinfer1::DataType::kINT64:
        return DType::int64;
      case nvinfer1::DataType::kINT32:
        return DType::int32;
      case nvinfer1::DataType::kBOOL:
        return DType::boolean;
      default:
        return std::nullopt;
    }
  }

  bool on_device(const std::string& tensor) const override {
    return engine_->getTensorLocation(tensor.c_str()) == nvinfer1::TensorLocation::kDEVICE;
  }

  int profiles() const override { return engine_->getNbOptimizationProfiles(); }

  std::pair<Shape, Shape> range(const std::string& tensor, int profile) const override {
    using Selector = nvinfer1::OptProfileSelector;
    return {shape_from(engine_->getProfileShape(tensor.c_str(), profile, Selector::kMIN)),
            shape_from(engine_->getProfileShape(tensor.c_str(), profile, Selector::kMAX))};
  }

  bool refit(const std::filesystem::path& graph) override {
    const auto make_refitter = library_.function<MakeRefitter>("createInferRefitter_INTERNAL");
    const DynamicLibrary parser_library(kParser);
    const auto make_parser =
        parser_library ? parser_library.function<MakeParserRefitter>("createNvOnnxParserRefitter_INTERNAL") : nullptr;
    if (make_refitter == nullptr || make_parser == nullptr) {
      logger_.log(nvinfer1::ILogger::Severity::kERROR,
                  parser_library ? "the library cannot refit" : parser_library.problem().c_str());
      return false;
    }
    const std::unique_ptr<nvinfer1::IRefitter> refitter(
        static_cast<nvinfer1::IRefitter*>(make_refitter(engine_.get(), &logger_, NV_TENSORRT_VERSION)));
    if (!refitter) return false;
    const std::unique_ptr<nvonnxparser::IParserRefitter> parser(
        static_cast<nvonnxparser::IParserRefitter*>(make_parser(refitter.get(), &logger_, NV_ONNX_PARSER_VERSION)));
    return parser && parser->refitFromFile(graph.u8string().c_str()) && refitter->refitCudaEngine();
  }

  std::unique_ptr<TensorRTContext> context([[maybe_unused]] bool graphs) override {
    std::unique_ptr<nvinfer1::IRuntimeConfig> config;
    using Allocation = nvinfer1::ExecutionContextAllocationStrategy;
#ifdef DIT_DEPLOY_RTX
    config.reset(engine_->createRuntimeConfig());
    if (!config) return nullptr;
    config->setExecutionContextAllocationStrategy(Allocation::kON_PROFILE_CHANGE);
    using Graphs = nvinfer1::CudaGraphStrategy;
    config->setCudaGraphStrategy(graphs ? Graphs::kWHOLE_GRAPH_CAPTURE : Graphs::kDISABLED);
    if (cache_) config->setRuntimeCache(*cache_);
    nvinfer1::IExecutionContext* const made = engine_->createExecutionContext(config.get());
#else
    nvinfer1::IExecutionContext* const made = engine_->createExecutionContext(Allocation::kUSER_MANAGED);
#endif
    return made != nullptr ? std::make_unique<Context>(std::move(config), made) : nullptr;
  }

#ifdef DIT_DEPLOY_RTX
  bool load_cache(const std::vector<std::byte>& data) override {
    return cache_ && cache_->deserialize(data.data(), data.size());
  }
  std::vector<std::byte> save_cache() override {
    const std::unique_ptr<nvinfer1::IHostMemory> memory(cache_ ? cache_->serialize() : nullptr);
    if (!memory) return {};
    const auto* const data = static_cast<const std::byte*>(memory->data());
    return {data, data + memory->size()};
  }
#else
  bool load_cache(const std::vector<std::byte>&) override { return false; }
  std::vector<std::byte> save_cache() override { return {}; }
#endif

 private:
  const DynamicLibrary& library_;
  Logger& logger_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
#ifdef DIT_DEPLOY_RTX
  std::unique_ptr<nvinfer1::IRuntimeCache> cache_;
#endif
};

class Library final : public TensorRTLibrary {
 public:
  Library() : library_(kLibrary) {
    if (!library_) {
      throw BackendError(std::string(kTitle) + " does not load: " + library_.problem() +
                         "; install it, and put its folder where the system looks for libraries (LD_LIBRARY_PATH)");
    }
  }

  std::string version() const override {
    std::string text;
    for (const char* part : {"Major", "Minor", "Patch", "Build"}) {
      const std::string name = "getInferLib" + std::string(part) + "Version";
      if (const auto number = library_.function<Version>(name.c_str())) {
        text += (text.empty() ? "" : ".") + std::to_string(number());
      }
    }
    return text;
  }

  bool captures_itself() const override {
#ifdef DIT_DEPLOY_RTX
    return true;
#else
    return false;
#endif
  }

  std::unique_ptr<TensorRTEngine> deserialize(const void* data, std::size_t size, std::string& diagnosis) override {
    if (!runtime_) {
      const auto make = library_.function<MakeRuntime>("createInferRuntime_INTERNAL");
      if (make != nullptr) runtime_.reset(static_cast<nvinfer1::IRuntime*>(make(&logger_, NV_TENSORRT_VERSION)));
      if (!runtime_) return nullptr;  // no driver, or older than the headers: it told the logger
    }
    nvinfer1::ICudaEngine* const engine = runtime_->deserializeCudaEngine(data, size);
    if (engine == nullptr) {
      diagnosis = diagnose(data, size);
      return nullptr;
    }
    return std::make_unique<Engine>(library_, logger_, engine);
  }

  std::string said() override { return logger_.take(); }

 private:
#ifdef DIT_DEPLOY_RTX
  std::string diagnose(const void* data, std::size_t size) {
    using Bit = nvinfer1::EngineInvalidityDiagnostics;
    if (static_cast<std::int64_t>(size) < runtime_->getEngineHeaderSize()) return " MALFORMED_ENGINE";
    std::uint64_t found = 0;
    runtime_->getEngineValidity(data, static_cast<std::int64_t>(size), &found);
    std::string names;
    for (const auto& [bit, name] :
         {std::pair{Bit::kVERSION_MISMATCH, " VERSION_MISMATCH"}, std::pair{Bit::kUNSUPPORTED_CC, " UNSUPPORTED_CC"},
          std::pair{Bit::kOLD_CUDA_DRIVER, " OLD_CUDA_DRIVER"},
          std::pair{Bit::kINSUFFICIENT_GPU_MEMORY, " INSUFFICIENT_GPU_MEMORY"},
          std::pair{Bit::kMALFORMED_ENGINE, " MALFORMED_ENGINE"}}) {
      if ((found & static_cast<std::uint64_t>(bit)) != 0) names += name;
    }
    return names;
  }
#else
  std::string diagnose(const void*, std::size_t) { return ""; }
#endif

  DynamicLibrary library_;
  Logger logger_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
};

}  // namespace

#ifdef DIT_DEPLOY_RTX
std::unique_ptr<TensorRTLibrary> load_tensorrt_rtx() { return std::make_unique<Library>(); }
#else
std::unique_ptr<TensorRTLibrary> load_tensorrt() { return std::make_unique<Library>(); }
#endif

}  // namespace dit_deploy::runtime
