// What the loop on the device asks of a backend: memory that stays there, and runs that read and write it;
// runtimes/device.py.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "runtime/runner.h"

namespace dit_deploy::runtime {

// Memory on a device, freed with the object.
class Buffer {
 public:
  virtual ~Buffer() = default;
  virtual void* address() const = 0;
  virtual std::size_t bytes() const = 0;
};

// Memory and order: what is asked of it, and of the bindings on it, happens in the order of the calls.
class Device {
 public:
  virtual ~Device() = default;
  // "cuda:0": two runners work on each other's buffers, in order, where their devices have the same name.
  virtual std::string name() const = 0;
  // Filled with zeros. Throws BackendError.
  virtual std::shared_ptr<Buffer> allocate(std::size_t bytes) = 0;
  virtual void upload(Buffer& buffer, const void* data, std::size_t bytes) = 0;
  // Waits for everything that was asked before.
  virtual void download(Buffer& buffer, void* out, std::size_t bytes) = 0;
};

// A component's buffers on a device for one set of sizes; also a Binding, with memory of the host.
class DeviceBinding : public Binding {
 public:
  // The buffer that an input or output uses, allocated when first asked for.
  virtual std::shared_ptr<Buffer> buffer(std::string_view name) = 0;
  // Use this buffer from the next launch on. Throws BackendError where it is smaller than its tensor, or there is no
  // such tensor.
  virtual void attach(std::string_view name, const std::shared_ptr<Buffer>& buffer) = 0;
  // Computes the outputs from the inputs on the device; it may still be computing when this returns.
  virtual void launch() = 0;
};

}  // namespace dit_deploy::runtime
