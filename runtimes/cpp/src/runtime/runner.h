// What the pipeline asks of a backend: bind sizes once, then write inputs, run, read outputs.
#pragma once

#include <cstddef>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bundle/manifest.h"

namespace dit_deploy::runtime {

using bundle::Component;
using bundle::Shape;
using bundle::Sizes;

class Device;

// A tensor in memory of the host, owned by a binding.
struct HostTensor {
  void* data = nullptr;
  DType dtype = DType::float32;
  Shape shape;
  std::size_t bytes = 0;
};

// A component's input and output buffers for one set of sizes. One caller at a time may use it.
class Binding {
 public:
  virtual ~Binding() = default;
  // Memory to write into before run(), or to read after it; nullptr where there is no such tensor.
  virtual const HostTensor* input(std::string_view name) = 0;
  virtual const HostTensor* output(std::string_view name) = 0;
  // Computes outputs from inputs. Throws BackendError. Allocates nothing of ours.
  virtual void run() = 0;
};

// One component loaded by a backend. May be shared by threads, each with bindings of its own.
class Runner {
 public:
  virtual ~Runner() = default;
  virtual const Component& component() const = 0;
  virtual std::unique_ptr<Binding> bind(const Sizes& sizes) = 0;
  // Where the bindings' buffers are; nullptr for the host. With a device, bind() returns DeviceBindings (device.h).
  virtual Device* device() { return nullptr; }
  // What a person would want to know and no run fails for: that there is no CUDA graph, and why.
  virtual std::vector<std::string> warnings() const { return {}; }
};

// Keeps a runner's bindings, so that a second picture of a size allocates nothing.
class BindingPool {
 public:
  // Lends a binding to one caller until it is destroyed.
  class Lease {
   public:
    Lease() = default;
    Lease(Lease&& other) noexcept;
    Lease& operator=(Lease&& other) noexcept;
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    ~Lease();
    Binding* operator->() const { return binding_.get(); }
    Binding& operator*() const { return *binding_; }
    explicit operator bool() const { return binding_ != nullptr; }

   private:
    friend class BindingPool;
    BindingPool* pool_ = nullptr;
    Sizes sizes_;
    std::unique_ptr<Binding> binding_;
  };

  explicit BindingPool(std::unique_ptr<Runner> runner, std::size_t capacity = 4);
  Runner& runner() { return *runner_; }
  Lease borrow(const Sizes& sizes);

 private:
  void give_back(Sizes sizes, std::unique_ptr<Binding> binding) noexcept;

  std::unique_ptr<Runner> runner_;
  std::size_t capacity_;
  std::mutex mutex_;
  std::list<std::pair<Sizes, std::unique_ptr<Binding>>> idle_;  // most recently used last
};

}  // namespace dit_deploy::runtime
