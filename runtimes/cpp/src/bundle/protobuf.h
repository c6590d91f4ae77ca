// The fields of an ONNX file, read without a protobuf library; `fields` of dit_deploy/bundle/_onnx.py.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>

#include "bundle/files.h"
#include "dit_deploy/errors.hpp"

namespace dit_deploy::bundle {

// The bytes are no protobuf message of the expected kind. read_onnx() makes a BundleError of it.
struct Malformed {
  std::string what;
};
[[noreturn]] inline void malformed(std::string what) { throw Malformed{std::move(what)}; }

// Bytes at any position, read through a window: a file may shrink while it is read, which a memory map does not survive.
class Bytes {
 public:
  explicit Bytes(std::string_view data) : window_(data), size_(data.size()) {}
  // Throws std::system_error, as the other functions do, where the file cannot be read.
  explicit Bytes(const std::filesystem::path& path);

  std::uint64_t size() const { return size_; }
  unsigned char at(std::uint64_t position) {
    if (position - start_ >= window_.size()) fill(position);
    return static_cast<unsigned char>(window_[static_cast<std::size_t>(position - start_)]);
  }
  bool holds(std::uint64_t start, std::uint64_t end, std::string_view text);
  // What is UTF-8 and no longer than a name.
  std::string text(std::uint64_t start, std::uint64_t end);

 private:
  void fill(std::uint64_t position);

  std::ifstream file_;
  std::string buffer_;
  std::string_view window_;
  std::uint64_t start_ = 0, size_ = 0;
};

struct Field {
  std::uint64_t number = 0;
  unsigned wire = 0;
  std::uint64_t value = 0;  // of a varint; the largest number where it has more than 64 bits
  std::uint64_t start = 0, end = 0;

  bool is(std::uint64_t wanted, unsigned kind) const { return number == wanted && wire == kind; }
};

// The fields of one message, one after the other.
class Cursor {
 public:
  Cursor(Bytes& bytes, std::uint64_t start, std::uint64_t end) : bytes_(bytes), at_(start), end_(end) {}
  bool next(Field& field);

 private:
  struct Varint {
    std::uint64_t value = 0;  // its lower 64 bits
    bool large = false;       // whether there are more
  };
  Varint varint();

  Bytes& bytes_;
  std::uint64_t at_, end_;
};

// What `read` makes of the bytes of an ONNX file; `name` is for messages. Throws BundleError where they are none.
template <typename Read>
auto read_onnx(Bytes& bytes, const std::string& name, Read&& read) {
  if (bytes.size() == 0) throw BundleError(name + " is no ONNX file: it is empty");
  try {
    return read(bytes);
  } catch (const Malformed& error) {
    throw BundleError(name + " is no well-formed ONNX file: " + error.what);
  }
}

template <typename Read>
auto read_onnx(std::string_view data, const std::string& name, Read&& read) {
  Bytes bytes(data);
  return read_onnx(bytes, name, read);
}

template <typename Read>
auto read_onnx(const std::filesystem::path& path, Read&& read) {
  try {
    Bytes bytes(path);
    return read_onnx(bytes, shown(path), read);
  } catch (const std::system_error& error) {
    throw BundleError(shown(path) + " cannot be read: " + error.code().message());
  }
}

}  // namespace dit_deploy::bundle
