// A file's bytes by address: an engine of gigabytes is not copied into memory before it goes to the GPU.
#pragma once

#include <cstddef>
#include <filesystem>
#include <vector>

namespace dit_deploy::runtime {

class MappedFile {
 public:
  // Throws BackendError where the file cannot be read.
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  const void* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  void* data_ = nullptr;
  std::size_t size_ = 0;
  std::vector<std::byte> copy_;  // where the system has no such mapping
};

}  // namespace dit_deploy::runtime
