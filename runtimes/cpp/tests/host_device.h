// A device whose memory is the host's, so that what stays on a device is tested on any machine.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "dit_deploy/errors.hpp"
#include "runtime/device.h"

namespace dit_deploy::tests {

class HostBuffer final : public runtime::Buffer {
 public:
  explicit HostBuffer(std::size_t bytes) : memory_(bytes) {}
  void* address() const override { return memory_.data(); }
  std::size_t bytes() const override { return memory_.size(); }

 private:
  mutable std::vector<std::byte> memory_;
};

// Counts what crosses between host and device, in bytes.
class HostDevice final : public runtime::Device {
 public:
  explicit HostDevice(std::string name = "host:0") : name_(std::move(name)) {}

  std::string name() const override { return name_; }
  std::shared_ptr<runtime::Buffer> allocate(std::size_t bytes) override {
    allocated += bytes;
    return std::make_shared<HostBuffer>(bytes);
  }
  void upload(runtime::Buffer& buffer, const void* data, std::size_t bytes) override {
    if (bytes > buffer.bytes()) throw BackendError("a copy is larger than the buffer");
    up += bytes;
    std::memcpy(buffer.address(), data, bytes);
  }
  void download(runtime::Buffer& buffer, void* out, std::size_t bytes) override {
    if (bytes > buffer.bytes()) throw BackendError("a copy is larger than the buffer");
    down += bytes;
    std::memcpy(out, buffer.address(), bytes);
  }

  std::size_t up = 0, down = 0, allocated = 0;

 private:
  std::string name_;
};

}  // namespace dit_deploy::tests
