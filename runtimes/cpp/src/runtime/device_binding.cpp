#include "runtime/device_binding.h"

#include <cstdint>
#include <limits>
#include <utility>

#include "bundle/shapes.h"
#include "dit_deploy/errors.hpp"

namespace dit_deploy::runtime {
namespace {

std::size_t checked_bytes(const std::string& name, const Shape& shape, DType dtype) {
  constexpr auto kLargest = static_cast<std::uint64_t>(std::numeric_limits<std::ptrdiff_t>::max());
  std::uint64_t bytes = bundle::dtype_size(dtype);
  for (const std::int64_t size : shape) {
    if (size <= 0 || bytes > kLargest / static_cast<std::uint64_t>(size)) {
      throw InputError(name + ": a tensor of shape " + bundle::shape_text(shape) +
                       " has no place in memory; ask for less");
    }
    bytes *= static_cast<std::uint64_t>(size);
  }
  return static_cast<std::size_t>(bytes);
}

}  // namespace

BufferedBinding::BufferedBinding(const Component& component, const Sizes& sizes, std::shared_ptr<Device> device)
    : component_(component), device_(std::move(device)) {
  slots_.reserve(component.inputs.size() + component.outputs.size());
  for (const bool is_input : {true, false}) {
    for (const auto& spec : is_input ? component.inputs : component.outputs) {
      Slot slot{spec.name, is_input, {}, nullptr, nullptr};
      slot.like.dtype = spec.dtype;
      slot.like.shape = bundle::shape_of(spec, sizes);
      slot.like.bytes = checked_bytes(spec.name, slot.like.shape, spec.dtype);
      slots_.push_back(std::move(slot));
    }
  }
}

const HostTensor* BufferedBinding::input(std::string_view name) { return host_tensor(name, true); }
const HostTensor* BufferedBinding::output(std::string_view name) { return host_tensor(name, false); }

void BufferedBinding::run() {
  allocate_buffers();
  allocate_host(true);
  allocate_host(false);
  for (Slot& slot : slots_) {
    if (slot.is_input) device_->upload(*slot.buffer, slot.host.get(), slot.like.bytes);
  }
  launch();
  for (Slot& slot : slots_) {
    if (!slot.is_input) device_->download(*slot.buffer, slot.host.get(), slot.like.bytes);
  }
}

std::shared_ptr<Buffer> BufferedBinding::buffer(std::string_view name) {
  Slot& found = slot(name);
  if (!found.buffer) bind(found, device_->allocate(found.like.bytes));
  return found.buffer;
}

void BufferedBinding::attach(std::string_view name, const std::shared_ptr<Buffer>& buffer) {
  may_capture_ = false;
  forget_capture();
  Slot& found = slot(name);
  if (found.buffer != buffer) bind(found, buffer);
}

void BufferedBinding::launch() {
  allocate_buffers();
  if (may_capture_) {
    may_capture_ = false;
    capture();
  } else {
    compute();
  }
}

BufferedBinding::Slot& BufferedBinding::slot(std::string_view name) {
  for (Slot& slot : slots_) {
    if (slot.name == name) return slot;
  }
  throw BackendError(component_.path + " has no tensor " + std::string(name) + "; build the engine again");
}

void BufferedBinding::allocate_buffers() {
  for (Slot& slot : slots_) {
    if (!slot.buffer) bind(slot, device_->allocate(slot.like.bytes));
  }
}

const HostTensor* BufferedBinding::host_tensor(std::string_view name, bool is_input) {
  for (Slot& slot : slots_) {
    if (slot.is_input != is_input || slot.name != name) continue;
    allocate_host(is_input);
    return &slot.like;
  }
  return nullptr;
}

void BufferedBinding::allocate_host(bool inputs) {
  for (Slot& slot : slots_) {
    if (slot.is_input != inputs || slot.host) continue;
    slot.host.reset(new std::byte[slot.like.bytes]());  // zeros
    slot.like.data = slot.host.get();
  }
}

void BufferedBinding::bind(Slot& slot, const std::shared_ptr<Buffer>& buffer) {
  if (buffer->bytes() < slot.like.bytes) {
    throw BackendError(component_.path + ": " + slot.name + " needs " + std::to_string(slot.like.bytes) +
                       " bytes, the buffer for it has " + std::to_string(buffer->bytes()) +
                       "; latents and what is computed from them are float32: export the bundle again");
  }
  const std::shared_ptr<Buffer> before = std::exchange(slot.buffer, buffer);
  try {
    point(static_cast<std::size_t>(&slot - slots_.data()));
  } catch (...) {
    slot.buffer = before;
    throw;
  }
}

}  // namespace dit_deploy::runtime
