// Engines from their files, with errors that say what is wrong; runtimes/tensorrt_library.py.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "runtime/tensorrt_library.h"

namespace dit_deploy::runtime {

// "denoiser.engine of fp16", for a message.
std::string engine_name(const std::filesystem::path& path);

// The engine in `path`; it is read by address, not into memory, where the system can. `gpu` is the GPU's name and compute
// capability, for a message. Throws BackendError where the file cannot be read, or the library does not take it: another
// version, another GPU, cut short.
std::unique_ptr<TensorRTEngine> read_engine(TensorRTLibrary& library, const std::string& flavour,
                                            const std::filesystem::path& path, const std::string& gpu);

}  // namespace dit_deploy::runtime
