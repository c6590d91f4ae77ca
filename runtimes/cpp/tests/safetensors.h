// Reads a safetensors file: 8 bytes of header length, a JSON header, the tensors' bytes. Every offset is checked, so that
// a broken golden file is a message and not a crash.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace dit_deploy::tests {

struct SafeTensor {
  std::string dtype;  // "F32", "U8", "I64", …
  std::vector<std::int64_t> shape;
  std::vector<std::byte> data;

  // The elements; throws where they are of another type.
  template <typename Value>
  std::vector<Value> values() const {
    const std::string wanted = std::is_same_v<Value, float>          ? "F32"
                               : std::is_same_v<Value, std::uint8_t> ? "U8"
                               : std::is_same_v<Value, std::int64_t> ? "I64"
                                                                     : "";
    if (dtype != wanted) throw std::runtime_error("tensor of " + dtype + " read as " + wanted);
    std::vector<Value> read(data.size() / sizeof(Value));
    if (!read.empty()) std::memcpy(read.data(), data.data(), data.size());
    return read;
  }
};

struct SafeTensors {
  std::map<std::string, SafeTensor> tensors;
  std::map<std::string, std::string> metadata;

  bool has(const std::string& name) const { return tensors.count(name) != 0; }
  const SafeTensor& at(const std::string& name) const {
    const auto found = tensors.find(name);
    if (found == tensors.end()) throw std::runtime_error("the file has no tensor " + name);
    return found->second;
  }
};

inline std::size_t safetensors_width(const std::string& dtype) {
  static const std::map<std::string, std::size_t> widths{{"F64", 8}, {"I64", 8},  {"F32", 4}, {"I32", 4},
                                                         {"F16", 2}, {"BF16", 2}, {"U8", 1},  {"BOOL", 1}};
  const auto found = widths.find(dtype);
  if (found == widths.end()) throw std::runtime_error("dtype " + dtype + " is not known");
  return found->second;
}

// Parses the bytes of a file. Throws std::runtime_error or a nlohmann::json::exception.
inline SafeTensors parse_safetensors(const std::vector<std::byte>& bytes) {
  constexpr std::size_t kPrefix = 8;
  if (bytes.size() < kPrefix) throw std::runtime_error("the file is cut off in its length");
  std::uint64_t length = 0;  // little endian
  for (std::size_t i = kPrefix; i-- > 0;) length = length << 8 | std::to_integer<std::uint64_t>(bytes[i]);
  if (length > bytes.size() - kPrefix) throw std::runtime_error("the file is cut off in its header");
  const std::size_t begin = kPrefix + static_cast<std::size_t>(length), room = bytes.size() - begin;
  const auto* text = reinterpret_cast<const char*>(bytes.data()) + kPrefix;
  const nlohmann::json header = nlohmann::json::parse(text, text + length);

  SafeTensors file;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      file.metadata = entry.get<std::map<std::string, std::string>>();
      continue;
    }
    SafeTensor tensor;
    tensor.dtype = entry.at("dtype").get<std::string>();
    tensor.shape = entry.at("shape").get<std::vector<std::int64_t>>();
    const auto offsets = entry.at("data_offsets").get<std::vector<std::uint64_t>>();
    if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > room) {
      throw std::runtime_error(name + ": its bytes lie outside the file");
    }
    std::uint64_t expected = safetensors_width(tensor.dtype);
    for (const std::int64_t size : tensor.shape) {
      if (size < 0 ||
          (size > 0 && expected > std::numeric_limits<std::uint64_t>::max() / static_cast<std::uint64_t>(size))) {
        throw std::runtime_error(name + ": its shape is no shape");
      }
      expected *= static_cast<std::uint64_t>(size);
    }
    if (expected != offsets[1] - offsets[0]) throw std::runtime_error(name + ": its bytes do not fit its shape");
    const auto first = bytes.begin() + static_cast<std::ptrdiff_t>(begin + offsets[0]);
    tensor.data.assign(first, first + static_cast<std::ptrdiff_t>(expected));
    file.tensors.emplace(name, std::move(tensor));
  }
  return file;
}

inline SafeTensors read_safetensors(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw std::runtime_error(path.string() + " cannot be read");
  std::vector<std::byte> bytes(static_cast<std::size_t>(std::filesystem::file_size(path)));
  if (!stream.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()))) {
    throw std::runtime_error(path.string() + " cannot be read to its end");
  }
  try {
    return parse_safetensors(bytes);
  } catch (const std::exception& error) {
    throw std::runtime_error(path.string() + ": " + error.what());
  }
}

}  // namespace dit_deploy::tests
