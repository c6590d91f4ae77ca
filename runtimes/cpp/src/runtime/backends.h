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

// TensorRT or TensorRT-RTX itself, on CUDA's first GPU (tensorrt.cpp). `flavour` is "tensorrt" or "tensorrt-rtx";
// `weights` is the ONNX file that an engine without weights is filled from, or empty; `cache` is a folder for what RTX
// compiles here, empty keeps nothing. Throws BackendError where this library was built without it, it or the driver is not
// on this machine, or it refuses the engine.
std::unique_ptr<Runner> open_tensorrt(const std::filesystem::path& path, Component component,
                                      const std::string& flavour, std::vector<bundle::Profile> profiles,
                                      const std::filesystem::path& weights, const std::filesystem::path& cache = {},
                                      bool cuda_graphs = true);
// The version of the TensorRT library that this library was built with and can load, for `flavour`; empty: none.
std::string tensorrt_version(const std::string& flavour);

}  // namespace dit_deploy::runtime
