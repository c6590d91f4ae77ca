// ONNX Runtime sessions on the execution providers that were asked for, and on no others; runtimes/providers.py.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace dit_deploy::runtime {

inline constexpr char kCpuProvider[] = "CPUExecutionProvider";
inline constexpr char kCudaProvider[] = "CUDAExecutionProvider";

struct SessionSettings {
  std::vector<std::string> providers{kCpuProvider};       // in order of preference
  std::map<std::string, std::string> provider_options;    // of the first provider that is not the CPU's
  std::map<std::string, std::string> provider_libraries;  // of plugin providers
  std::map<std::string, std::string> config;              // session configuration entries
  int threads = 0;                                        // within an operator; 0: ONNX Runtime's choice
  bool cpu_ops = false;                                   // register this project's fused operators (runtimes/cpu_ops)
  bool cuda_graphs = false;                               // ask CUDA's provider to capture
};

// Opens a session, which keeps ONNX Runtime's environment alive as long as it lives itself. `what` is what the model is
// called in a message: "model.onnx of denoiser". Throws BackendError where a provider is not in this ONNX Runtime or does
// not start, so that the model would run on the CPU, or ONNX Runtime refuses the model; InputError for fewer than 0
// threads.
std::shared_ptr<Ort::Session> open_session(const std::filesystem::path& model, const SessionSettings& settings,
                                           const std::string& what);

// Of the library that is loaded: "1.32.0". Throws BackendError where it is older than the headers that this library was
// built with: ask before the first use of any function or class of ONNX Runtime's.
std::string onnxruntime_version();

// The first line of a message of ONNX Runtime, cut to what a terminal shows.
std::string first_line(const std::string& message);

// Providers that ONNX Runtime can use here: its own, and plugins with a library.
std::vector<std::string> available_providers(const std::map<std::string, std::string>& provider_libraries);

}  // namespace dit_deploy::runtime
