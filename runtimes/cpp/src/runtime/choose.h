// Which of a bundle's engines a pipeline runs; runtimes/choose.py.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>

#include "bundle/bundle.h"
#include "runtime/fit.h"
#include "runtime/machine.h"

namespace dit_deploy::runtime {

// The engine to run: its name, "onnx" for the plain graphs; why, in one line; and the engine itself.
struct Choice {
  std::string name, reason;
  std::optional<bundle::Engine> engine;
};

// "onnx" is the plain graphs, a name that engine, and "auto" the best that fits the machine: never one that is damaged
// or whose recorded parity failed, and the plain graphs where none is left. `machine` is asked for when it is needed:
// (whether GPUs matter) → the machine. Throws InputError, BundleError.
using MachineSource = std::function<Machine(bool gpus)>;
Choice choose_engine(const bundle::Bundle& bundle, const std::string& engine, const MachineSource& machine);

// The same for the machine that this process runs on.
Choice choose_engine(const bundle::Bundle& bundle, const std::string& engine,
                     const std::map<std::string, std::string>& provider_libraries);

}  // namespace dit_deploy::runtime
