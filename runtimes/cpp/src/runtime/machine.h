// What engines need of the machine that this process runs on; runtimes/gpus.py and this_machine of runtimes/fit.py.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

namespace dit_deploy::runtime {

struct Machine {
  std::vector<std::string> compute_capabilities;  // of its NVIDIA GPUs, in CUDA's order
  std::string gpu_note;                           // why there are none
  std::map<std::string, std::string> versions;    // backend → version; one that is missing is not there
  std::vector<std::string> providers;             // that ONNX Runtime can use here
  std::string cpu_ops_note;                       // why the fused operators are not here; empty where they are
};

// The machine that this process runs on; without `gpus` the NVIDIA driver is not started. Throws BackendError where
// ONNX Runtime is too old.
Machine this_machine(bool gpus, const std::map<std::string, std::string>& provider_libraries);

// Each GPU's compute capability, such as "8.9", in CUDA's order; and why there are none. The driver heeds
// CUDA_VISIBLE_DEVICES, as the backends do.
std::pair<std::vector<std::string>, std::string> gpu_compute_capabilities();

// Whether this processor sums products of bytes without saturating: elsewhere INT8 engines for the CPU run with
// session.x64quantprecision = 1.
bool cpu_has_vnni();

}  // namespace dit_deploy::runtime
