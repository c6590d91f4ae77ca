// Memory, one stream and CUDA graphs, by the driver's own library; runtimes/cuda.py.
//
// libcuda comes with the driver, so it is there wherever an engine can run; its functions keep their versions for good,
// and its context is the one that TensorRT and ONNX Runtime share. So nothing of CUDA is needed to build this.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "runtime/device.h"

namespace dit_deploy::runtime {

// The functions of cuda.h that are used here, with the version that it maps their names to. Each returns a CUresult.
// Handles are pointers, addresses on the device 64-bit numbers, devices ints, as there.
struct CudaDriver {
  int (*cuInit)(unsigned flags);
  int (*cuGetErrorString)(int status, const char** text);
  int (*cuDeviceGetCount)(int* count);
  int (*cuDeviceGet)(int* device, int ordinal);
  int (*cuDeviceGetName)(char* name, int length, int device);
  int (*cuDeviceGetAttribute)(int* value, int attribute, int device);
  int (*cuDevicePrimaryCtxRetain)(void** context, int device);
  int (*cuDevicePrimaryCtxRelease_v2)(int device);
  int (*cuCtxPushCurrent_v2)(void* context);
  int (*cuCtxPopCurrent_v2)(void** context);
  int (*cuStreamCreate)(void** stream, unsigned flags);
  int (*cuStreamDestroy_v2)(void* stream);
  int (*cuStreamSynchronize)(void* stream);
  int (*cuMemAlloc_v2)(std::uint64_t* address, std::size_t bytes);
  int (*cuMemFree_v2)(std::uint64_t address);
  int (*cuMemsetD8Async)(std::uint64_t address, unsigned char value, std::size_t bytes, void* stream);
  int (*cuMemcpyHtoDAsync_v2)(std::uint64_t target, const void* source, std::size_t bytes, void* stream);
  int (*cuMemcpyDtoHAsync_v2)(void* target, std::uint64_t source, std::size_t bytes, void* stream);
  int (*cuStreamBeginCapture_v2)(void* stream, int mode);
  int (*cuStreamEndCapture)(void* stream, void** graph);
  int (*cuGraphInstantiateWithFlags)(void** executable, void* graph, unsigned long long flags);
  int (*cuGraphDestroy)(void* graph);
  int (*cuGraphExecDestroy)(void* executable);
  int (*cuGraphLaunch)(void* executable, void* stream);
};

// The machine's driver, started once. Throws BackendError where there is none, or it does not start.
const CudaDriver& cuda_driver();

class CudaDevice;

// Work that was captured; it knows the addresses of its buffers, so they must outlive it.
class CudaGraph {
 public:
  CudaGraph(std::shared_ptr<CudaDevice> device, void* executable);
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;
  ~CudaGraph();
  // Queues the whole of it.
  void launch();

 private:
  std::shared_ptr<CudaDevice> device_;
  void* executable_;
};

// One GPU and one stream: everything happens in the order of the calls, whoever makes them. Threads may share it.
class CudaDevice final : public Device, public std::enable_shared_from_this<CudaDevice> {
 public:
  // Makes the GPU's context the calling thread's, and gives the thread its own one back: an application may have another.
  // TensorRT works on whichever is the thread's.
  class Scope {
   public:
    explicit Scope(const CudaDevice& device);
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    ~Scope();

   private:
    const CudaDevice& device_;
    bool entered_;
  };

  // The GPU `index`, as CUDA counts; the same object for all who hold it at a time, so that all runners on it share one
  // stream. Throws BackendError where there is no driver, or no such GPU.
  static std::shared_ptr<CudaDevice> open(int index = 0);
  // One of its own. `driver` outlives it.
  static std::shared_ptr<CudaDevice> create(const CudaDriver& driver, int index = 0);
  ~CudaDevice() override;

  std::string name() const override { return name_; }
  const std::string& gpu() const { return gpu_; }
  const std::string& compute_capability() const { return compute_capability_; }
  void* stream() const { return stream_; }
  // Held while work is queued, and for the whole of a capture, into which another thread's work would fall otherwise.
  std::recursive_mutex& mutex() { return mutex_; }

  std::shared_ptr<Buffer> allocate(std::size_t bytes) override;
  void upload(Buffer& buffer, const void* data, std::size_t bytes) override;
  void download(Buffer& buffer, void* out, std::size_t bytes) override;
  // Waits for everything that was queued. Throws BackendError where something of it failed.
  void synchronize();
  // What `queue` puts on the stream, as a graph; nothing of it is computed now. Throws BackendError where `queue` does,
  // or does what cannot be captured.
  std::unique_ptr<CudaGraph> capture(const std::function<void()>& queue);

 private:
  friend class CudaGraph;
  class Memory;

  CudaDevice(const CudaDriver& driver, int index);
  int attribute(int which) const;
  void check(const char* function, int status) const;

  const CudaDriver& driver_;
  std::recursive_mutex mutex_;
  int device_ = 0;
  void* context_ = nullptr;
  void* stream_ = nullptr;
  std::string name_, gpu_, compute_capability_;
};

}  // namespace dit_deploy::runtime
