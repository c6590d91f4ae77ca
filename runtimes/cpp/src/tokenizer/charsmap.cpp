#include "tokenizer/charsmap.h"

#include <algorithm>

#include "dit_deploy/errors.hpp"

namespace dit_deploy::tokenizer {
namespace {

std::string from_base64(std::string_view base64) {
  std::string bytes;
  std::uint32_t bits = 0;
  int count = 0;
  while (!base64.empty() && base64.back() == '=') base64.remove_suffix(1);
  for (const char letter : base64) {
    std::uint32_t value = 0;
    if (letter >= 'A' && letter <= 'Z') {
      value = static_cast<std::uint32_t>(letter - 'A');
    } else if (letter >= 'a' && letter <= 'z') {
      value = static_cast<std::uint32_t>(letter - 'a') + 26;
    } else if (letter >= '0' && letter <= '9') {
      value = static_cast<std::uint32_t>(letter - '0') + 52;
    } else if (letter == '+' || letter == '/') {
      value = letter == '+' ? 62 : 63;
    } else {
      throw BundleError("precompiled_charsmap is no base64");
    }
    bits = bits << 6 | value;
    count += 6;
    if (count >= 8) {
      count -= 8;
      bytes += static_cast<char>(static_cast<unsigned char>(bits >> count & 0xFFU));
    }
  }
  return bytes;
}

std::uint32_t little_endian(std::string_view bytes, std::size_t at) {
  std::uint32_t value = 0;
  for (std::size_t i = 4; i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[at + i]);
  return value;
}

// Where the grapheme cluster at `first` ends, as far as the map needs it, which looks at those of up to five bytes: a
// character with its marks, and a carriage return with a line feed.
std::size_t cluster_end(const Text& text, std::size_t first) {
  constexpr std::uint32_t kControl = bit(Category::Cc) | bit(Category::Cf) | bit(Category::Zl) | bit(Category::Zp);
  const auto joins = [](char32_t code) { return code == 0x200C || code == 0x200D || is_in(code, kMark); };
  std::size_t end = first + 1;
  if (text[first].code == U'\r') return end < text.size() && text[end].code == U'\n' ? end + 1 : end;
  if (is_in(text[first].code, kControl) && !joins(text[first].code)) return end;
  while (end < text.size() && joins(text[end].code)) ++end;
  return end;
}

}  // namespace

Charsmap::Charsmap(std::string_view base64) {
  const std::string bytes = from_base64(base64);
  const std::uint32_t size = bytes.size() < 4 ? 0 : little_endian(bytes, 0);
  if (size == 0 || size % 4 != 0 || size > bytes.size() - 4) throw BundleError("precompiled_charsmap is cut short");
  for (std::size_t at = 4; at < 4 + std::size_t{size}; at += 4) array_.push_back(little_endian(bytes, at));
  texts_ = bytes.substr(4 + std::size_t{size});
}

std::optional<std::string_view> Charsmap::find(std::string_view key) const {
  const auto offset = [](std::uint32_t unit) { return std::size_t{unit >> 10} << ((unit & (1U << 9)) >> 6); };
  std::size_t node = offset(array_[0]);
  for (const char letter : key) {
    const auto byte = static_cast<unsigned char>(letter);
    node ^= byte;
    if (byte == 0 || node >= array_.size()) return std::nullopt;
    const std::uint32_t unit = array_[node];
    if ((unit & ((1U << 31) | 0xFFU)) != byte) return std::nullopt;
    node ^= offset(unit);
    if ((unit >> 8 & 1U) == 0) continue;
    if (node >= array_.size()) return std::nullopt;
    const std::size_t begin = array_[node] & 0x7fffffffU;
    if (begin > texts_.size()) return std::nullopt;
    return std::string_view(texts_).substr(begin, std::min(texts_.find('\0', begin), texts_.size()) - begin);
  }
  return std::nullopt;
}

Text Charsmap::apply(const Text& text) const {
  Text out;
  // Appends what the characters become; false where the map does not have them.
  const auto add = [&](std::size_t first, std::size_t last, std::size_t longest) {
    std::string key;
    for (std::size_t at = first; at < last && key.size() <= longest; ++at) append_utf8(key, text[at].code);
    const auto found = key.size() > longest ? std::nullopt : find(key);
    if (!found) return false;
    std::size_t at = first;
    for (const char32_t code : to_characters(*found)) {
      out.push_back({code, text[at].begin, text[at].end});
      at = std::min(at + 1, last - 1);
    }
    return true;
  };
  for (std::size_t first = 0; first < text.size();) {
    check_length(out);
    const std::size_t end = cluster_end(text, first);
    if (!add(first, end, 5)) {
      for (std::size_t at = first; at < end; ++at) {
        if (!add(at, at + 1, 4)) out.push_back(text[at]);
      }
    }
    first = end;
  }
  return out;
}

}  // namespace dit_deploy::tokenizer
