#include "runtime/providers.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "dit_deploy/errors.hpp"
#include "runtime/cpu_ops.h"
#include "text.h"

namespace dit_deploy::runtime {
namespace {

constexpr char kTensorRTProvider[] = "TensorrtExecutionProvider";

// Providers that are no part of ONNX Runtime's own packages, and the kind of device that each is for.
struct Plugin {
  const char* provider;
  OrtHardwareDeviceType device;
  const char* device_name;
  const char* package;
};
constexpr Plugin kPlugins[] = {
    {"NvTensorRTRTXExecutionProvider", OrtHardwareDeviceType_GPU, "GPU", "onnxruntime-ep-nv-tensorrt-rtx"},
    {"OpenVINOExecutionProvider", OrtHardwareDeviceType_CPU, "CPU", "onnxruntime-ep-openvino"},
};

const Plugin* known_plugin(const std::string& provider) {
  for (const Plugin& plugin : kPlugins) {
    if (provider == plugin.provider) return &plugin;
  }
  return nullptr;
}

bool holds(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// ONNX Runtime's environment, with the plugins that were registered in it.
class Environment {
 public:
  Ort::Env& env() { return env_; }

  // The device of a plugin, whose library is loaded now where it was not before. Throws BackendError.
  Ort::ConstEpDevice plugin(const std::string& provider, const std::string& library) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto loaded = libraries_.find(provider);
    if (loaded != libraries_.end() && loaded->second != library) {
      throw BackendError("ONNX Runtime: " + provider + " came from " + one_line(loaded->second) +
                         " before, and not from " + one_line(library) + "; a process has one library for a provider");
    }
    auto devices = devices_of(provider);
    if (loaded == libraries_.end() && devices.empty()) {  // the application may have registered it itself
      try {
        env_.RegisterExecutionProviderLibrary(provider.c_str(), std::filesystem::u8path(library).native());
      } catch (const std::exception& error) {
        throw BackendError("ONNX Runtime: " + provider + " does not load: " + first_line(error.what()));
      }
      devices = devices_of(provider);
    }
    libraries_.emplace(provider, library);
    const Plugin* known = known_plugin(provider);
    for (const auto& device : devices) {
      if (known == nullptr || device.Device().Type() == known->device) return device;
    }
    throw BackendError("ONNX Runtime: " + provider + " finds no " + (known ? known->device_name : "device") +
                       " that it could run on");
  }

 private:
  std::vector<Ort::ConstEpDevice> devices_of(const std::string& provider) const {
    auto devices = env_.GetEpDevices();
    devices.erase(
        std::remove_if(devices.begin(), devices.end(), [&](const auto& one) { return one.EpName() != provider; }),
        devices.end());
    return devices;
  }

  // Errors only: a library does not write to its program's stderr what ONNX Runtime finds worth a warning.
  Ort::Env env_{ORT_LOGGING_LEVEL_ERROR, "dit_deploy"};
  std::mutex mutex_;
  std::map<std::string, std::string> libraries_;  // provider → the library that it came from
};

// One for all sessions that are alive: ONNX Runtime has one a process, and plugins are registered once in it.
std::shared_ptr<Environment> environment() {
  static std::mutex mutex;
  static std::weak_ptr<Environment> shared;
  const std::lock_guard<std::mutex> lock(mutex);
  auto found = shared.lock();
  if (!found) shared = found = std::make_shared<Environment>();
  return found;
}

using ProviderOptions = std::unordered_map<std::string, std::string>;

// Appends a provider that is part of this ONNX Runtime. Each of these calls fails where the provider's library, or one
// that it needs, does not load; a device that is missing fails the session.
void append(Ort::SessionOptions& options, const std::string& provider, ProviderOptions given, bool cuda_graphs) {
  if (provider == kCudaProvider) {
    // Precision is in the graph: float32 means float32, where ONNX Runtime would round products to TF32.
    given.emplace("use_tf32", "0");
    given["enable_cuda_graph"] = cuda_graphs ? "1" : "0";
    Ort::CUDAProviderOptions cuda;
    cuda.Update(given);
    options.AppendExecutionProvider_CUDA_V2(*cuda);
  } else if (provider == kTensorRTProvider) {
    Ort::TensorRTProviderOptions tensorrt;
    tensorrt.Update(given);
    options.AppendExecutionProvider_TensorRT_V2(*tensorrt);
  } else {
    options.AppendExecutionProvider(provider, given);
  }
}

[[noreturn]] void does_not_start(const std::string& provider, const std::string& what, const std::string& why) {
  throw BackendError("ONNX Runtime: " + provider + " does not start on this machine, so " + what +
                     " would run on the CPU; its libraries, its device or an option is at fault: " + why);
}

[[noreturn]] void no_such_provider(const std::string& provider, const std::vector<std::string>& available) {
  std::string hint;
  if (const Plugin* plugin = known_plugin(provider)) {
    hint = "; give the path of its library in provider_libraries (" + std::string(plugin->package) +
           " of Python's package index has one)";
  } else if (provider == kCudaProvider) {
    hint = "; use a build of ONNX Runtime for GPUs";
  }
  throw BackendError("ONNX Runtime " + onnxruntime_version() + " has no " + one_line(provider) + hint + "; it has " +
                     join(available));
}

void append_providers(Ort::SessionOptions& options, Environment& environment, const SessionSettings& settings,
                      const std::string& what) {
  std::vector<std::string> asked = settings.providers;
  asked.erase(std::remove(asked.begin(), asked.end(), kCpuProvider), asked.end());  // it is always there, and the last
  const auto available = Ort::GetAvailableProviders();
  ProviderOptions given(settings.provider_options.begin(), settings.provider_options.end());
  for (const std::string& provider : asked) {
    const auto library = settings.provider_libraries.find(provider);
    const bool plugin = library != settings.provider_libraries.end();
    if (!plugin && !holds(available, provider)) no_such_provider(provider, available);
    if (plugin && asked.size() > 1) {
      throw BackendError("ONNX Runtime: " + provider + " is a plugin here, and runs beside the CPU's provider only");
    }
    try {
      if (plugin) {
        options.AppendExecutionProvider_V2(environment.env(), {environment.plugin(provider, library->second)}, given);
      } else {
        append(options, provider, std::exchange(given, {}), settings.cuda_graphs);
      }
    } catch (const Ort::Exception& error) {
      does_not_start(provider, what, first_line(error.what()));
    }
  }
}

// ONNX Runtime's interface does not list the providers of a session; that CUDA's is among them shows in its memory.
void check_cuda(const Ort::Session& session, const SessionSettings& settings, const std::string& what) {
  if (!holds(settings.providers, kCudaProvider) || settings.provider_libraries.count(kCudaProvider) != 0) return;
  const auto chosen = settings.provider_options.find("device_id");
  const int device = chosen == settings.provider_options.end() ? 0 : std::atoi(chosen->second.c_str());
  try {
    Ort::Allocator(session, Ort::MemoryInfo("Cuda", OrtDeviceAllocator, device, OrtMemTypeDefault));
  } catch (const Ort::Exception& error) {
    does_not_start(kCudaProvider, what, first_line(error.what()));
  }
}

}  // namespace

std::shared_ptr<Ort::Session> open_session(const std::filesystem::path& model, const SessionSettings& settings,
                                           const std::string& what) {
  struct Opened {  // the session goes first
    std::shared_ptr<Environment> environment;
    Ort::Session session;
  };
  onnxruntime_version();  // throws where nothing else of ONNX Runtime may be used
  if (settings.threads < 0) {
    throw InputError("threads: " + std::to_string(settings.threads) + " came, expected 0 for one a core, or more");
  }
  try {
    auto shared = environment();
    Ort::SessionOptions options;
    options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_ERROR);
    if (settings.threads > 0) options.SetIntraOpNumThreads(settings.threads);
    for (const auto& [name, value] : settings.config) options.AddConfigEntry(name.c_str(), value.c_str());
    if (settings.cpu_ops) register_cpu_ops(options);
    append_providers(options, *shared, settings, what);
    Ort::Session session(shared->env(), model.c_str(), options);
    check_cuda(session, settings, what);
    auto opened = std::make_shared<Opened>(Opened{std::move(shared), std::move(session)});
    return {opened, &opened->session};
  } catch (const Ort::Exception& error) {
    throw BackendError("ONNX Runtime refuses " + what + ": " + first_line(error.what()));
  }
}

std::string onnxruntime_version() {
  const OrtApiBase* base = OrtGetApiBase();
  std::string version = base->GetVersionString();
  if (base->GetApi(ORT_API_VERSION) == nullptr) {
    const std::string wanted = "1." + std::to_string(ORT_API_VERSION);
    throw BackendError("ONNX Runtime " + version + " is loaded, but this library was built for " + wanted +
                       " or newer; install a newer ONNX Runtime, or build this library with the headers of " + version);
  }
  return version;
}

std::string first_line(const std::string& message) {
  const auto begin = message.find_first_not_of(" \t\r\n");
  if (begin == std::string::npos) return "an error without a message";
  std::string line = message.substr(begin, message.find_first_of("\r\n", begin) - begin);
  // Before "[ONNXRuntimeError] : 1 : FAIL : " stands where in ONNX Runtime's sources it was noticed: of no use here.
  constexpr std::string_view kMark = "[ONNXRuntimeError] : ", kBetween = " : ";
  if (const auto mark = line.rfind(kMark); mark != std::string::npos) {
    const auto code = line.find(kBetween, mark + kMark.size());
    const auto kind = code == std::string::npos ? code : line.find(kBetween, code + kBetween.size());
    if (kind != std::string::npos && kind + kBetween.size() < line.size()) line.erase(0, kind + kBetween.size());
  }
  return one_line(line, 300);
}

std::vector<std::string> available_providers(const std::map<std::string, std::string>& provider_libraries) {
  onnxruntime_version();
  std::vector<std::string> providers = Ort::GetAvailableProviders();
  for (const auto& named : provider_libraries) {
    if (!holds(providers, named.first)) providers.push_back(named.first);
  }
  return providers;
}

}  // namespace dit_deploy::runtime
