// This project's fused INT8 operators for CPUs, built into this library; runtimes/cpu_ops.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <string>

namespace dit_deploy::runtime {

// Makes the operators known to a session. Throws BackendError where they are not built in, or ONNX Runtime refuses them.
void register_cpu_ops(Ort::SessionOptions& options);

// Why they are not built in, and how to get them; empty where they are.
std::string why_no_cpu_ops();

}  // namespace dit_deploy::runtime
