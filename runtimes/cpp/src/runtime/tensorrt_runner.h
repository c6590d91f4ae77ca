// TensorRT engines, of the full library and of TensorRT-RTX alike: one runner, told which; runtimes/tensorrt.py.
//
// They differ in three things. CUDA graphs: with the full library they are captured here, once the engine has run with a
// shape; RTX has a strategy of its own, and that is used, because RTX replaces its kernels by better ones while it runs,
// of which a graph of ours would know nothing. Activation memory: with the full library each binding gives exactly what
// its shape needs; RTX allocates for itself, what its later kernels need included. And what RTX compiled is kept in a
// cache.
//
// With either, the first replay is compared with an ordinary run before it is trusted (replay.h).
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "bundle/engine.h"
#include "runtime/cuda.h"
#include "runtime/tensorrt_library.h"

namespace dit_deploy::runtime {

struct TensorRTFile {
  std::filesystem::path path;
  Component component;
  std::string flavour;                    // "tensorrt" or "tensorrt-rtx"
  std::vector<bundle::Profile> profiles;  // in the order in which it was built; none asks the engine
  std::filesystem::path weights;          // the ONNX file that an engine without weights is filled from; or empty
  std::filesystem::path cache;            // a folder for what RTX compiles here; empty keeps nothing
  bool cuda_graphs = true;                // one that fails, or computes something else, is given up with a warning
};

// "TensorRT-RTX", as its maker writes it.
std::string tensorrt_title(const std::string& flavour);

// Throws BackendError where the library refuses the engine: built for another version or GPU, cut short, or of other
// inputs and outputs than declared.
std::unique_ptr<Runner> open_tensorrt_on(std::unique_ptr<TensorRTLibrary> library, std::shared_ptr<CudaDevice> device,
                                         TensorRTFile file);

}  // namespace dit_deploy::runtime
