// NVIDIA's driver on a machine that has none: device memory is memory of this process, so that addresses are real ones; a
// stream computes at once, or records while it captures, and a graph computes what was recorded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "runtime/cuda.h"

namespace dit_deploy::tests {

class FakeCuda {
 public:
  using Work = std::vector<std::function<void()>>;

  // One at a time: the driver's functions know no object. What is allocated must be freed before it goes.
  FakeCuda() { instance_ = this; }
  ~FakeCuda() { instance_ = nullptr; }
  FakeCuda(const FakeCuda&) = delete;
  FakeCuda& operator=(const FakeCuda&) = delete;

  static const runtime::CudaDriver& driver() {
    static const runtime::CudaDriver functions = made();
    return functions;
  }
  std::shared_ptr<runtime::CudaDevice> device() { return runtime::CudaDevice::create(driver()); }

  // Does it now, or records it.
  void queue(std::function<void()> work) {
    if (recording) {
      recording->push_back(std::move(work));
    } else {
      work();
    }
  }
  bool holds(const void* address, std::size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = held.find(reinterpret_cast<std::uintptr_t>(address));
    return found != held.end() && bytes <= found->second.size();
  }

  static constexpr int kNoMemory = 2, kCaptureFailed = 900;

  int gpus = 1;
  std::size_t memory = std::size_t{1} << 30;  // bytes that there are
  bool capture_fails = false, captures_nothing = false;
  std::size_t allocations = 0, launches = 0, streams = 0, contexts = 0;
  std::mutex mutex;  // of held
  std::map<std::uint64_t, std::vector<std::byte>> held;
  std::map<std::uintptr_t, Work> graphs;
  std::optional<Work> recording;
  static inline thread_local std::vector<void*> current;  // contexts of this thread, the last is the one

 private:
  static void* handle(std::uintptr_t number) { return reinterpret_cast<void*>(number); }
  static std::uintptr_t number(void* handle) { return reinterpret_cast<std::uintptr_t>(handle); }
  static std::byte* at(std::uint64_t address) {
    return reinterpret_cast<std::byte*>(static_cast<std::uintptr_t>(address));
  }

  static runtime::CudaDriver made() {
    runtime::CudaDriver driver{};
    driver.cuInit = [](unsigned) { return 0; };
    driver.cuGetErrorString = [](int status, const char** text) {
      *text = status == kNoMemory ? "out of memory" : "a fake error";
      return 0;
    };
    driver.cuDeviceGetCount = [](int* count) { return *count = instance_->gpus, 0; };
    driver.cuDeviceGet = [](int* device, int ordinal) { return *device = ordinal, 0; };
    driver.cuDeviceGetName = [](char* name, int, int) { return std::strcpy(name, "Fake RTX 4090"), 0; };
    driver.cuDeviceGetAttribute = [](int* value, int attribute, int) { return *value = attribute == 75 ? 8 : 9, 0; };
    driver.cuDevicePrimaryCtxRetain = [](void** context, int) {
      return ++instance_->contexts, *context = handle(1), 0;
    };
    driver.cuDevicePrimaryCtxRelease_v2 = [](int) { return --instance_->contexts, 0; };
    driver.cuCtxPushCurrent_v2 = [](void* context) { return current.push_back(context), 0; };
    driver.cuCtxPopCurrent_v2 = [](void** context) { return *context = current.back(), current.pop_back(), 0; };
    driver.cuStreamCreate = [](void** stream, unsigned) { return ++instance_->streams, *stream = handle(2), 0; };
    driver.cuStreamDestroy_v2 = [](void*) { return --instance_->streams, 0; };
    driver.cuStreamSynchronize = [](void*) { return instance_->recording ? kCaptureFailed : 0; };
    driver.cuMemAlloc_v2 = [](std::uint64_t* address, std::size_t bytes) {
      return instance_->allocate(address, bytes);
    };
    driver.cuMemFree_v2 = [](std::uint64_t address) { return instance_->release(address); };
    driver.cuMemsetD8Async = [](std::uint64_t address, unsigned char value, std::size_t bytes, void*) {
      instance_->queue([=] { std::memset(at(address), value, bytes); });
      return 0;
    };
    driver.cuMemcpyHtoDAsync_v2 = [](std::uint64_t target, const void* source, std::size_t bytes, void*) {
      const auto* const first = static_cast<const std::byte*>(source);
      instance_->queue([=, data = std::vector<std::byte>(first, first + bytes)] {
        if (bytes != 0) std::memcpy(at(target), data.data(), bytes);
      });
      return 0;
    };
    driver.cuMemcpyDtoHAsync_v2 = [](void* target, std::uint64_t source, std::size_t bytes, void*) {
      instance_->queue([=] { std::memcpy(target, at(source), bytes); });
      return 0;
    };
    driver.cuStreamBeginCapture_v2 = [](void*, int) { return instance_->recording.emplace(), 0; };
    driver.cuStreamEndCapture = [](void*, void** graph) { return instance_->end_capture(graph); };
    driver.cuGraphInstantiateWithFlags = [](void** executable, void* graph, unsigned long long) {
      instance_->graphs[instance_->next_] = instance_->graphs.at(number(graph));
      *executable = handle(instance_->next_++);
      return 0;
    };
    driver.cuGraphDestroy = [](void* graph) { return instance_->graphs.erase(number(graph)), 0; };
    driver.cuGraphExecDestroy = [](void* graph) { return instance_->graphs.erase(number(graph)), 0; };
    driver.cuGraphLaunch = [](void* graph, void*) {
      ++instance_->launches;
      for (const auto& work : instance_->graphs.at(number(graph))) work();
      return 0;
    };
    return driver;
  }

  int allocate(std::uint64_t* address, std::size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex);
    std::size_t used = bytes;
    for (const auto& one : held) used += one.second.size();
    if (used > memory) return kNoMemory;
    std::vector<std::byte> own(bytes, std::byte{0x7F});  // nothing is zero by itself
    *address = reinterpret_cast<std::uintptr_t>(own.data());
    held.emplace(*address, std::move(own));
    ++allocations;
    return 0;
  }
  int release(std::uint64_t address) {
    const std::lock_guard<std::mutex> lock(mutex);
    return held.erase(address) == 1 ? 0 : 1;
  }
  int end_capture(void** graph) {
    Work recorded = std::move(*recording);
    recording.reset();
    if (capture_fails) return kCaptureFailed;
    graphs[next_] = captures_nothing ? Work{} : std::move(recorded);
    *graph = handle(next_++);
    return 0;
  }

  static inline FakeCuda* instance_ = nullptr;
  std::uintptr_t next_ = 1000;
};

}  // namespace dit_deploy::tests
