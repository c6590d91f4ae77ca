// What TensorRT-RTX compiled on this GPU, kept in the bundle, so that the next process need not compile it again;
// runtimes/runtime_cache.py.
//
// RTX finishes its engines where they run: kernels are compiled when sizes are first met. The library checks what it is
// given (its version, the GPU, the driver) and takes nothing that does not fit; the file's name says the same, so that
// machines which share a bundle do not take each other's place.
#pragma once

#include <cstddef>
#include <filesystem>
#include <mutex>
#include <string>
#include <vector>

#include "runtime/tensorrt_library.h"

namespace dit_deploy::runtime {

// "folder/rtx-1.7.1.116-NVIDIA-RTX-A5000-fp16-denoiser.cache"
std::filesystem::path tensorrt_cache_path(const std::filesystem::path& folder, const std::filesystem::path& engine,
                                          const std::string& version, const std::string& gpu);

// An engine's cache and its file. Failing to read or write it costs time and nothing else, so it is no error.
class TensorRTCache {
 public:
  // `engine` outlives the cache.
  TensorRTCache(TensorRTEngine& engine, std::filesystem::path path);
  // Gives the library what the file holds.
  void load();
  // Writes the file where the library has compiled something since.
  void save() noexcept;

 private:
  TensorRTEngine& engine_;
  std::filesystem::path path_;
  std::mutex mutex_;
  std::vector<std::byte> kept_;
};

}  // namespace dit_deploy::runtime
