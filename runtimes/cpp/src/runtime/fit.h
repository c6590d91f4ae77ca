// Whether an engine fits a machine, and in one line why not; runtimes/fit.py.
#pragma once

#include <string>

#include "bundle/engine.h"
#include "runtime/machine.h"

namespace dit_deploy::runtime {

// What a machine lacks for an engine, what cannot be mended first; empty where the engine fits.
std::string lacks(const bundle::EngineRecord& record, const Machine& machine);

// What an engine was made for: "ONNX Runtime 1.32.0 with CUDAExecutionProvider on an NVIDIA GPU".
std::string made_for(const bundle::EngineRecord& record);

// What an engine was made for and what of it the machine lacks; empty where the engine fits.
std::string unfit(const bundle::EngineRecord& record, const Machine& machine);

}  // namespace dit_deploy::runtime
