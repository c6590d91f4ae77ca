// What bindings on a device have in common, whichever backend computes: buffers by name, and arrays on the host;
// runtimes/device_binding.py.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/device.h"
#include "runtime/runner.h"

namespace dit_deploy::runtime {

// A DeviceBinding less the backend's part, which is point(), compute(), and capture() where it has CUDA graphs. A graph
// knows addresses, so a binding whose buffers were ever exchanged gets none.
class BufferedBinding : public DeviceBinding {
 public:
  const HostTensor* input(std::string_view name) override;
  const HostTensor* output(std::string_view name) override;
  void run() override;
  std::shared_ptr<Buffer> buffer(std::string_view name) override;
  void attach(std::string_view name, const std::shared_ptr<Buffer>& buffer) override;
  void launch() override;

 protected:
  // A tensor for this binding's sizes. `like.data` is the host's array, allocated when the host's arrays are used.
  struct Slot {
    std::string name;
    bool is_input;
    HostTensor like;
    std::shared_ptr<Buffer> buffer;
    std::unique_ptr<std::byte[]> host;
  };

  // `component` outlives the binding. Throws InputError for sizes that it does not take.
  BufferedBinding(const Component& component, const Sizes& sizes, std::shared_ptr<Device> device);

  const std::vector<Slot>& slots() const { return slots_; }
  Device& device() const { return *device_; }
  const Component& component() const { return component_; }

  // Tells the backend where a tensor is.
  virtual void point(std::size_t slot) = 0;
  // Computes, by a graph where one was captured.
  virtual void compute() = 0;
  // Computes for the first time, and captures a graph on the way where there is to be one.
  virtual void capture() { compute(); }
  // Gives up the graph, as buffers are about to change.
  virtual void forget_capture() {}

 private:
  Slot& slot(std::string_view name);
  void allocate_buffers();
  const HostTensor* host_tensor(std::string_view name, bool is_input);
  void allocate_host(bool inputs);
  void bind(Slot& slot, const std::shared_ptr<Buffer>& buffer);

  const Component& component_;
  std::shared_ptr<Device> device_;
  std::vector<Slot> slots_;
  bool may_capture_ = true;
};

}  // namespace dit_deploy::runtime
