#include "bundle/protobuf.h"

#include <algorithm>
#include <cerrno>
#include <limits>

#include "text.h"

namespace dit_deploy::bundle {
namespace {

constexpr std::uint64_t kLongestText = 65536;

[[noreturn]] void failed() { throw std::system_error(errno != 0 ? errno : EIO, std::generic_category()); }

}  // namespace

Bytes::Bytes(const std::filesystem::path& path) {
  errno = 0;
  file_.open(path, std::ios::binary);
  file_.seekg(0, std::ios::end);
  const auto end = file_.tellg();
  if (!file_ || end < 0) failed();
  size_ = static_cast<std::uint64_t>(end);
  buffer_.resize(std::size_t{1} << 14);
}

bool Bytes::holds(std::uint64_t start, std::uint64_t end, std::string_view text) {
  if (end - start != text.size()) return false;
  return std::all_of(text.begin(), text.end(), [&](char one) { return static_cast<char>(at(start++)) == one; });
}

std::string Bytes::text(std::uint64_t start, std::uint64_t end) {
  if (end - start > kLongestText)
    malformed("a name of " + std::to_string(end - start) + " bytes at byte " + std::to_string(start));
  std::string out;
  for (std::uint64_t position = start; position < end; ++position) out += static_cast<char>(at(position));
  for (std::size_t index = 0; index < out.size();) {
    const Character one = character_at(out, index);
    if (!one.valid) malformed("the text at byte " + std::to_string(start) + " is no UTF-8");
    index += one.length;
  }
  return out;
}

void Bytes::fill(std::uint64_t position) {
  errno = 0;
  file_.seekg(static_cast<std::streamoff>(position));
  file_.read(buffer_.data(), static_cast<std::streamsize>(std::min<std::uint64_t>(buffer_.size(), size_ - position)));
  const auto count = static_cast<std::size_t>(file_.gcount());
  if (!file_ || count == 0) failed();
  start_ = position;
  window_ = std::string_view(buffer_.data(), count);
}

bool Cursor::next(Field& field) {
  if (at_ >= end_) return false;
  const Varint key = varint();
  field.number = key.large ? std::numeric_limits<std::uint64_t>::max() : key.value >> 3;
  field.wire = key.value & 7;
  field.value = 0;
  if (field.wire == 0) {
    const Varint value = varint();
    field.value = value.large ? std::numeric_limits<std::uint64_t>::max() : value.value;
    field.start = field.end = at_;
    return true;
  }
  Varint length{field.wire == 1 ? 8U : 4U, false};
  if (field.wire == 2) {
    length = varint();
  } else if (field.wire != 1 && field.wire != 5) {
    // Groups (3, 4) occur in no ONNX message; 6 and 7 do not exist.
    malformed("wire type " + std::to_string(field.wire) + " before byte " + std::to_string(at_));
  }
  if (field.number == 0 || length.large || length.value > end_ - at_)
    malformed("field " + std::to_string(field.number) + " before byte " + std::to_string(at_) + " claims " +
              (length.large ? "more than 2^64" : std::to_string(length.value)) + " of " + std::to_string(end_ - at_) +
              " bytes");
  field.start = at_;
  at_ += length.value;
  field.end = at_;
  return true;
}

Cursor::Varint Cursor::varint() {
  Varint out;
  for (unsigned shift = 0; shift < 70; shift += 7) {
    if (at_ >= end_) malformed("a number at byte " + std::to_string(at_) + " is cut off");
    const std::uint64_t byte = bytes_.at(at_++);
    out.value |= (byte & 0x7f) << shift;
    if (byte < 0x80) {
      out.large = shift == 63 && byte > 1;
      return out;
    }
  }
  malformed("the number before byte " + std::to_string(at_) + " has more than ten bytes");
}

}  // namespace dit_deploy::bundle
