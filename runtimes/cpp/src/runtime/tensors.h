// Tensors of a binding as the pipeline reads and writes them.
#pragma once

#include <string>

#include "dit_deploy/errors.hpp"
#include "runtime/runner.h"

namespace dit_deploy::runtime {

// The values of a float32 tensor. Throws BackendError for a bundle that declares another type: whatever a graph computes
// in, latents and pictures pass between components as float32.
inline float* floats(const HostTensor* tensor, const std::string& name) {
  if (tensor == nullptr) throw BackendError(name + ": the graph has no such tensor; export the bundle again");
  if (tensor->dtype != DType::float32) {
    throw BackendError(name + ": the bundle declares a type other than float32, which this runtime does not feed");
  }
  return static_cast<float*>(tensor->data);
}

}  // namespace dit_deploy::runtime
