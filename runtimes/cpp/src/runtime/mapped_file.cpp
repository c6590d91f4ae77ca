#include "runtime/mapped_file.h"

#include <cerrno>
#include <fstream>
#include <string>
#include <system_error>

#ifndef _WIN32
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

#include "dit_deploy/errors.hpp"
#include "text.h"

namespace dit_deploy::runtime {
namespace {

[[noreturn]] void unreadable(const std::filesystem::path& path, int error) {
  throw BackendError(one_line(path.u8string(), 300) + " cannot be read: " + std::generic_category().message(error));
}

}  // namespace

#ifdef _WIN32

MappedFile::MappedFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const auto size = file ? static_cast<std::streamoff>(file.tellg()) : -1;
  if (size < 0) unreadable(path, errno);
  copy_.resize(static_cast<std::size_t>(size));
  file.seekg(0);
  if (!file.read(reinterpret_cast<char*>(copy_.data()), size)) unreadable(path, errno);
  data_ = copy_.data();
  size_ = copy_.size();
}

MappedFile::~MappedFile() = default;

#else

MappedFile::MappedFile(const std::filesystem::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) unreadable(path, errno);
  struct stat status{};
  if (::fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
    const int error = S_ISDIR(status.st_mode) ? EISDIR : errno;
    ::close(descriptor);
    unreadable(path, error);
  }
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ != 0) {  // nothing cannot be mapped
    data_ = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
    const int error = errno;
    if (data_ == MAP_FAILED) {
      ::close(descriptor);
      unreadable(path, error);
    }
  }
  ::close(descriptor);
}

MappedFile::~MappedFile() {
  if (size_ != 0) ::munmap(data_, size_);
}

#endif

}  // namespace dit_deploy::runtime
