#include "runtime/cuda.h"

#include <algorithm>
#include <array>
#include <map>
#include <type_traits>
#include <utility>

#include "dit_deploy/errors.hpp"
#include "runtime/dynamic_library.h"
#include "text.h"

namespace dit_deploy::runtime {
namespace {

// Values of cuda.h.
constexpr int kSuccess = 0, kNoMemory = 2;
constexpr int kMajor = 75, kMinor = 76;
constexpr unsigned kNonBlocking = 1;
// Forbids nothing meanwhile, such as freeing in another thread. What falls into a capture is ours alone: the device's
// mutex keeps other threads off the stream.
constexpr int kCaptureRelaxed = 2;

#ifdef _WIN32
constexpr char kLibrary[] = "nvcuda.dll";
#else
constexpr char kLibrary[] = "libcuda.so.1";
#endif

std::string error_text(const CudaDriver& driver, int status) {
  const char* text = nullptr;
  driver.cuGetErrorString(status, &text);
  return one_line(text != nullptr ? text : "unknown error") + " (" + std::to_string(status) + ")";
}

CudaDriver load_driver() {
  const DynamicLibrary library(kLibrary);
  if (!library) {
    throw BackendError("there is no NVIDIA driver on this machine (" + std::string(kLibrary) +
                       " is not found): engines for NVIDIA GPUs do not run here");
  }
  CudaDriver driver{};
  const auto find = [&library](auto& function, const char* name) {
    function = library.function<std::remove_reference_t<decltype(function)>>(name);
    if (function == nullptr) {
      throw BackendError("the NVIDIA driver is too old: it has no " + std::string(name) + "; install a newer one");
    }
  };
#define DIT_DEPLOY_FIND(name) find(driver.name, #name)
  DIT_DEPLOY_FIND(cuInit);
  DIT_DEPLOY_FIND(cuGetErrorString);
  DIT_DEPLOY_FIND(cuDeviceGetCount);
  DIT_DEPLOY_FIND(cuDeviceGet);
  DIT_DEPLOY_FIND(cuDeviceGetName);
  DIT_DEPLOY_FIND(cuDeviceGetAttribute);
  DIT_DEPLOY_FIND(cuDevicePrimaryCtxRetain);
  DIT_DEPLOY_FIND(cuDevicePrimaryCtxRelease_v2);
  DIT_DEPLOY_FIND(cuCtxPushCurrent_v2);
  DIT_DEPLOY_FIND(cuCtxPopCurrent_v2);
  DIT_DEPLOY_FIND(cuStreamCreate);
  DIT_DEPLOY_FIND(cuStreamDestroy_v2);
  DIT_DEPLOY_FIND(cuStreamSynchronize);
  DIT_DEPLOY_FIND(cuMemAlloc_v2);
  DIT_DEPLOY_FIND(cuMemFree_v2);
  DIT_DEPLOY_FIND(cuMemsetD8Async);
  DIT_DEPLOY_FIND(cuMemcpyHtoDAsync_v2);
  DIT_DEPLOY_FIND(cuMemcpyDtoHAsync_v2);
  DIT_DEPLOY_FIND(cuStreamBeginCapture_v2);
  DIT_DEPLOY_FIND(cuStreamEndCapture);
  DIT_DEPLOY_FIND(cuGraphInstantiateWithFlags);
  DIT_DEPLOY_FIND(cuGraphDestroy);
  DIT_DEPLOY_FIND(cuGraphExecDestroy);
  DIT_DEPLOY_FIND(cuGraphLaunch);
#undef DIT_DEPLOY_FIND
  if (const int status = driver.cuInit(0); status != kSuccess) {
    throw BackendError("the NVIDIA driver does not start: " + error_text(driver, status) + "; look at `nvidia-smi`");
  }
  return driver;
}

}  // namespace

const CudaDriver& cuda_driver() {
  static const CudaDriver driver = load_driver();
  return driver;
}

// Memory on the GPU. cuMemFree waits for what was queued, so that nothing reads memory that is someone else's.
class CudaDevice::Memory final : public Buffer {
 public:
  Memory(std::shared_ptr<CudaDevice> device, std::uint64_t address, std::size_t bytes)
      : device_(std::move(device)), address_(address), bytes_(bytes) {}
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() override {
    const Scope scope(*device_);
    const std::lock_guard<std::recursive_mutex> lock(device_->mutex_);
    device_->driver_.cuMemFree_v2(address_);  // an error has no one left to hear it, as at the end of the process
  }
  void* address() const override { return reinterpret_cast<void*>(static_cast<std::uintptr_t>(address_)); }
  std::size_t bytes() const override { return bytes_; }

 private:
  std::shared_ptr<CudaDevice> device_;
  std::uint64_t address_;
  std::size_t bytes_;
};

// It fails where the driver is being unloaded, at the end of the process, and then what follows fails and says so.
CudaDevice::Scope::Scope(const CudaDevice& device)
    : device_(device), entered_(device.driver_.cuCtxPushCurrent_v2(device.context_) == kSuccess) {}

CudaDevice::Scope::~Scope() {
  void* popped = nullptr;
  if (entered_) device_.driver_.cuCtxPopCurrent_v2(&popped);
}

std::shared_ptr<CudaDevice> CudaDevice::open(int index) {
  // Runners find each other's device here; it goes with the last of them.
  static std::mutex mutex;
  static std::map<int, std::weak_ptr<CudaDevice>> devices;
  const std::lock_guard<std::mutex> lock(mutex);
  auto device = devices[index].lock();
  if (!device) {
    device = create(cuda_driver(), index);
    devices[index] = device;
  }
  return device;
}

std::shared_ptr<CudaDevice> CudaDevice::create(const CudaDriver& driver, int index) {
  return std::shared_ptr<CudaDevice>(new CudaDevice(driver, index));
}

CudaDevice::CudaDevice(const CudaDriver& driver, int index) : driver_(driver), name_("cuda:" + std::to_string(index)) {
  int count = 0;
  check("cuDeviceGetCount", driver_.cuDeviceGetCount(&count));
  if (index < 0 || index >= count) {
    throw BackendError("CUDA device " + std::to_string(index) + " was asked for, this machine has " +
                       std::to_string(count));
  }
  check("cuDeviceGet", driver_.cuDeviceGet(&device_, index));
  std::array<char, 256> text{};
  check("cuDeviceGetName", driver_.cuDeviceGetName(text.data(), static_cast<int>(text.size() - 1), device_));
  gpu_ = one_line(text.data());
  compute_capability_ = std::to_string(attribute(kMajor)) + "." + std::to_string(attribute(kMinor));
  check("cuDevicePrimaryCtxRetain", driver_.cuDevicePrimaryCtxRetain(&context_, device_));
  const Scope scope(*this);
  if (const int status = driver_.cuStreamCreate(&stream_, kNonBlocking); status != kSuccess) {
    driver_.cuDevicePrimaryCtxRelease_v2(device_);
    check("cuStreamCreate", status);
  }
}

CudaDevice::~CudaDevice() {
  {
    const Scope scope(*this);
    driver_.cuStreamDestroy_v2(stream_);
  }
  driver_.cuDevicePrimaryCtxRelease_v2(device_);
}

std::shared_ptr<Buffer> CudaDevice::allocate(std::size_t bytes) {
  const std::size_t size = std::max<std::size_t>(bytes, 1);
  std::uint64_t address = 0;
  const Scope scope(*this);
  const std::lock_guard<std::recursive_mutex> lock(mutex_);
  const int status = driver_.cuMemAlloc_v2(&address, size);
  if (status == kNoMemory) {
    throw BackendError(gpu_ + " has no " + human_size(size) +
                       " left: draw fewer or smaller pictures at once, or close what else uses the GPU (`nvidia-smi` "
                       "lists it)");
  }
  check("cuMemAlloc", status);
  auto memory = std::make_shared<Memory>(shared_from_this(), address, bytes);
  check("cuMemsetD8Async", driver_.cuMemsetD8Async(address, 0, size, stream_));
  return memory;
}

// The driver has the bytes before this returns, as it is pageable memory.
void CudaDevice::upload(Buffer& buffer, const void* data, std::size_t bytes) {
  if (bytes > buffer.bytes()) throw BackendError("a copy to " + name_ + " is larger than the buffer");
  const Scope scope(*this);
  const std::lock_guard<std::recursive_mutex> lock(mutex_);
  const auto address = static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(buffer.address()));
  check("cuMemcpyHtoDAsync", driver_.cuMemcpyHtoDAsync_v2(address, data, bytes, stream_));
}

void CudaDevice::download(Buffer& buffer, void* out, std::size_t bytes) {
  if (bytes > buffer.bytes()) throw BackendError("a copy from " + name_ + " is larger than the buffer");
  const Scope scope(*this);
  const std::lock_guard<std::recursive_mutex> lock(mutex_);
  const auto address = static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(buffer.address()));
  check("cuMemcpyDtoHAsync", driver_.cuMemcpyDtoHAsync_v2(out, address, bytes, stream_));
  synchronize();
}

void CudaDevice::synchronize() {
  const Scope scope(*this);
  // Waiting for a stream that captures, even in another thread, fails and ends the capture.
  const std::lock_guard<std::recursive_mutex> lock(mutex_);
  check("cuStreamSynchronize", driver_.cuStreamSynchronize(stream_));
}

std::unique_ptr<CudaGraph> CudaDevice::capture(const std::function<void()>& queue) {
  const Scope scope(*this);
  const std::lock_guard<std::recursive_mutex> lock(mutex_);
  check("cuStreamBeginCapture", driver_.cuStreamBeginCapture_v2(stream_, kCaptureRelaxed));
  void* graph = nullptr;
  try {
    queue();
  } catch (...) {  // the stream must leave capture whatever happened
    if (driver_.cuStreamEndCapture(stream_, &graph) == kSuccess) driver_.cuGraphDestroy(graph);
    throw;
  }
  check("cuStreamEndCapture", driver_.cuStreamEndCapture(stream_, &graph));
  void* executable = nullptr;
  const int status = driver_.cuGraphInstantiateWithFlags(&executable, graph, 0);
  driver_.cuGraphDestroy(graph);
  check("cuGraphInstantiateWithFlags", status);
  return std::make_unique<CudaGraph>(shared_from_this(), executable);
}

int CudaDevice::attribute(int which) const {
  int value = 0;
  check("cuDeviceGetAttribute", driver_.cuDeviceGetAttribute(&value, which, device_));
  return value;
}

void CudaDevice::check(const char* function, int status) const {
  if (status != kSuccess) {
    throw BackendError("CUDA: " + std::string(function) + " failed: " + error_text(driver_, status));
  }
}

CudaGraph::CudaGraph(std::shared_ptr<CudaDevice> device, void* executable)
    : device_(std::move(device)), executable_(executable) {}

CudaGraph::~CudaGraph() {
  const CudaDevice::Scope scope(*device_);
  device_->driver_.cuGraphExecDestroy(executable_);
}

void CudaGraph::launch() {
  const CudaDevice::Scope scope(*device_);
  const std::lock_guard<std::recursive_mutex> lock(device_->mutex_);
  device_->check("cuGraphLaunch", device_->driver_.cuGraphLaunch(executable_, device_->stream_));
}

}  // namespace dit_deploy::runtime
