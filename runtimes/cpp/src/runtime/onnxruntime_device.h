// ONNX Runtime with buffers that stay on a device; runtimes/onnxruntime.py and onnxruntime_device.py.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "runtime/device.h"
#include "runtime/providers.h"

namespace dit_deploy::runtime {

// Where bindings have their buffers, in ONNX Runtime's words.
struct DeviceMemory {
  std::shared_ptr<Device> device;
  std::string kind;  // "Cuda", or "Cpu", on which the loop can be tested
  int index = 0;
  // Waits until what was asked of `device` is done: ONNX Runtime computes on a stream of its own, which knows nothing of
  // the device's.
  std::function<void()> settle;
  // Held during a run; see OnnxRuntimeDeviceRunner in the source.
  std::recursive_mutex* turns = nullptr;
};

// open_onnxruntime_cuda (backends.h) with memory that is given. With `settings.cuda_graphs` each set of sizes gets a CUDA
// graph; a capture that fails, or computes something else, is given up, and Runner::warnings() says so.
std::unique_ptr<Runner> open_onnxruntime_on(DeviceMemory memory, const std::filesystem::path& path, Component component,
                                            const SessionSettings& settings);

}  // namespace dit_deploy::runtime
