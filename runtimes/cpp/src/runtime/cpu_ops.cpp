// The operators' own entry point, called here as ONNX Runtime would call it in a library of its own.
#include "runtime/cpu_ops.h"

#include "dit_deploy/errors.hpp"

namespace dit {

// runtimes/cpu_ops/src/registration.cpp, which knows ONNX Runtime's interface by its places: the same objects under
// names of its own.
struct ApiBase;
void* register_operators(void* options, const ApiBase* base);

}  // namespace dit

namespace dit_deploy::runtime {

void register_cpu_ops(Ort::SessionOptions& options) {
  OrtSessionOptions* const raw = options;
  const auto* base = reinterpret_cast<const dit::ApiBase*>(OrtGetApiBase());
  const Ort::Status status(static_cast<OrtStatus*>(dit::register_operators(raw, base)));
  if (!status.IsOK())
    throw BackendError("the INT8 operators for CPUs cannot be registered: " + status.GetErrorMessage());
}

std::string why_no_cpu_ops() { return {}; }

}  // namespace dit_deploy::runtime
