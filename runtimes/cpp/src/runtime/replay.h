// Whether a captured CUDA graph computes what the run that it was captured from computed; runtimes/replay.py.
//
// A graph may be empty, or read memory that is no longer what it was (NVIDIA/TensorRT issues 3798 and 2603), and nothing
// fails then. So the first replay of each is compared with an ordinary run on the same inputs; the outputs are spoiled
// between the two.
#pragma once

#include <cstddef>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "runtime/device.h"

namespace dit_deploy::runtime {

struct ReplayOutput {
  std::string name;
  Buffer* buffer;
  DType dtype;
  std::size_t bytes;
};

// Runs `eager`, `capture` and `replay`; returns how the last differs from the first, empty where it does not. The outputs
// are those of the replay afterwards.
std::string replay_differs(Device& device, const std::vector<ReplayOutput>& outputs, const std::function<void()>& eager,
                           const std::function<void()>& capture, const std::function<void()>& replay);

// What a runner warns of, for Runner::warnings(). A library prints nothing; threads may share it.
class Warnings {
 public:
  // Says once that `what` runs without a CUDA graph from here on.
  void eager(const std::string& what, const std::string& reason);
  std::vector<std::string> list() const;

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> lines_;
};

}  // namespace dit_deploy::runtime
