// The runners that there are: one function a backend.
#pragma once

#include <filesystem>
#include <memory>
#include <vector>

#include "bundle/engine.h"
#include "runtime/providers.h"
#include "runtime/runner.h"

namespace dit_deploy::runtime {

// ONNX Runtime with buffers on the host (onnxruntime_host.cpp).
std::unique_ptr<Runner> open_onnxruntime(const std::filesystem::path& path, Component component,
                                         const SessionSettings& settings);
// ONNX Runtime with buffers that stay on the GPU, for CUDA's own provider (onnxruntime_device.cpp).
std::unique_ptr<Runner> open_onnxruntime_cuda(const std::filesystem::path& path, Component component,
                                              const SessionSettings& settings);

// TensorRT or TensorRT-RTX itself, where this library was built with it (tensorrt.cpp), else a BackendError that says
// how to get it (no_tensorrt.cpp). `flavour` is "tensorrt" or "tensorrt-rtx".
std::unique_ptr<Runner> open_tensorrt(const std::filesystem::path& path, Component component,
                                      const std::string& flavour, std::vector<bundle::Profile> profiles,
                                      const std::filesystem::path& weights);
// The version of the TensorRT library that this library was built with and can load, for `flavour`; empty: none.
std::string tensorrt_version(const std::string& flavour);

}  // namespace dit_deploy::runtime
