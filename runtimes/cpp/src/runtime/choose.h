// Which of a bundle's engines a pipeline runs; runtimes/choose.py, fit.py and gpus.py.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "bundle/bundle.h"

namespace dit_deploy::runtime {

// What engines need of a machine.
struct Machine {
  std::vector<std::string> compute_capabilities;  // of its NVIDIA GPUs, in CUDA's order
  std::string gpu_note;                           // why there are none
  std::map<std::string, std::string> versions;    // backend → version; one that is missing is not there
  std::vector<std::string> providers;             // that ONNX Runtime can use here
  std::string cpu_ops_note;                       // why the fused operators are not here; empty where they are
};

// The machine that this process runs on; without `gpus` the NVIDIA driver is not started.
Machine this_machine(bool gpus, const std::map<std::string, std::string>& provider_libraries);

// What this machine lacks for an engine; empty where the engine fits.
std::string lacks(const bundle::EngineRecord& record, const Machine& machine);

struct Choice {
  std::string name, reason;
  std::optional<bundle::Engine> engine;
};

// `machine` is asked for when it is needed: (whether GPUs matter) → the machine. Throws InputError, BundleError.
Choice choose_engine(const bundle::Bundle& bundle, const std::string& engine,
                     const std::map<std::string, std::string>& provider_libraries);

}  // namespace dit_deploy::runtime
