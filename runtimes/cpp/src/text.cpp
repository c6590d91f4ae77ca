#include "text.h"

#include <array>
#include <charconv>
#include <cmath>

namespace dit_deploy {
namespace {

// What str.split() splits at.
bool is_space(char32_t code) {
  return (code >= 0x09 && code <= 0x0d) || (code >= 0x1c && code <= 0x20) || code == 0x85 || code == 0xa0 ||
         code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 || code == 0x202f ||
         code == 0x205f || code == 0x3000;
}

// The characters of str.isprintable()'s complement that change how a terminal shows a line.
bool is_control(char32_t code) {
  return code < 0x20 || (code >= 0x7f && code <= 0x9f) || code == 0xad || (code >= 0x200b && code <= 0x200f) ||
         (code >= 0x2028 && code <= 0x202e) || (code >= 0x2060 && code <= 0x206f) || code == 0xfeff ||
         (code >= 0xe000 && code <= 0xf8ff) || (code >= 0xfff0 && code <= 0xfffb) || code >= 0xe0000;
}

void append_hex(std::string& out, char kind, char32_t code, int digits) {
  out += '\\';
  out += kind;
  for (int shift = 4 * (digits - 1); shift >= 0; shift -= 4) out += "0123456789abcdef"[(code >> shift) & 15U];
}

void append_escape(std::string& out, const Character& one) {
  if (!one.valid) {
    append_hex(out, 'u', 0xdc00 + one.code, 4);  // as Python shows a byte of a name that is no UTF-8
  } else if (one.code == '\n') {
    out += "\\n";
  } else if (one.code == '\r') {
    out += "\\r";
  } else if (one.code == '\t') {
    out += "\\t";
  } else if (one.code < 0x100) {
    append_hex(out, 'x', one.code, 2);
  } else if (one.code < 0x10000) {
    append_hex(out, 'u', one.code, 4);
  } else {
    append_hex(out, 'U', one.code, 8);
  }
}

bool shown_as_it_is(const Character& one) { return one.valid && !is_control(one.code); }

// Cuts UTF-8 text at `limit` characters.
std::string cut(std::string text, std::size_t limit) {
  if (text.size() <= limit) return text;  // as many bytes as characters at least
  std::size_t count = 0, end = 0, kept = 0;
  while (end < text.size()) {
    if (count + 1 == limit) kept = end;  // where limit - 1 characters end
    end += character_at(text, end).length;
    ++count;
  }
  if (count <= limit) return text;
  text.resize(kept);
  return text + "…";
}

}  // namespace

Character character_at(std::string_view text, std::size_t position) {
  const auto byte = [&](std::size_t at) { return static_cast<unsigned char>(text[at]); };
  const unsigned char first = byte(position);
  if (first < 0x80) return {first, 1, true};
  const Character bad{first, 1, false};
  const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() - position < length) return bad;
  char32_t code = first & (0xffU >> (length + 1));
  for (std::size_t at = 1; at < length; ++at) {
    const unsigned char next = byte(position + at);
    if ((next & 0xc0U) != 0x80) return bad;
    code = (code << 6) | (next & 0x3fU);
  }
  const bool too_long = code < (length == 4 ? 0x10000U : length == 3 ? 0x800U : 0x80U);
  if (too_long || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return bad;
  return {code, length, true};
}

void append_character(std::string& text, char32_t code) {
  const auto add = [&](char32_t byte) { text += static_cast<char>(static_cast<unsigned char>(byte)); };
  if (code < 0x80) {
    add(code);
  } else if (code < 0x800) {
    add(0xc0 | code >> 6);
    add(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    add(0xe0 | code >> 12);
    add(0x80 | (code >> 6 & 0x3f));
    add(0x80 | (code & 0x3f));
  } else {
    add(0xf0 | code >> 18);
    add(0x80 | (code >> 12 & 0x3f));
    add(0x80 | (code >> 6 & 0x3f));
    add(0x80 | (code & 0x3f));
  }
}

std::string one_line(std::string_view text, std::size_t limit) {
  std::string line;
  bool space = false;
  for (std::size_t at = 0; at < text.size();) {
    const Character one = character_at(text, at);
    if (one.valid && is_space(one.code)) {
      space = true;
    } else {
      if (space && !line.empty()) line += ' ';
      space = false;
      if (shown_as_it_is(one)) {
        line += text.substr(at, one.length);
      } else {
        append_escape(line, one);
      }
    }
    at += one.length;
    if (limit != kNoLimit && line.size() / 4 > limit) break;  // four bytes a character at most
  }
  return cut(std::move(line), limit);
}

std::string quoted(std::string_view text, std::size_t limit) {
  const bool apostrophe = text.find('\'') != std::string_view::npos;
  const char quote = apostrophe && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string out(1, quote);
  for (std::size_t at = 0; at < text.size();) {
    const Character one = character_at(text, at);
    if (one.valid && (one.code == static_cast<char32_t>(quote) || one.code == '\\')) {
      out += '\\';
      out += static_cast<char>(one.code);
    } else if (shown_as_it_is(one) && (one.code == ' ' || !is_space(one.code))) {
      out += text.substr(at, one.length);
    } else {
      append_escape(out, one);
    }
    at += one.length;
    if (limit != kNoLimit && out.size() / 8 > limit) break;  // white space may still be joined
  }
  return one_line(out + quote, limit);
}

std::string quoted(const std::string& text) { return quoted(std::string_view(text)); }
std::string quoted(const char* text) { return quoted(std::string_view(text)); }
std::string quoted(std::string& text) { return quoted(std::string_view(text)); }

std::string printable(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const Character one = character_at(text, at);
    if (shown_as_it_is(one)) {
      out += text.substr(at, one.length);
    } else {
      append_escape(out, one);
    }
    at += one.length;
  }
  return out;
}

std::string join(const std::vector<std::string>& parts, std::string_view separator) {
  std::string out;
  for (std::size_t index = 0; index < parts.size(); ++index) {
    if (index > 0) out += separator;
    out += parts[index];
  }
  return out;
}

std::string number_text(double value, int precision) {
  std::array<char, 64> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::general,
                                 precision < 1    ? 1
                                 : precision > 17 ? 17
                                                  : precision);
  return {buffer.data(), end.ptr};
}

std::string number_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  std::array<char, 64> buffer{};
  char* const begin = buffer.data();
  char* const limit = begin + buffer.size();
  const std::string shortest(begin, std::to_chars(begin, limit, value, std::chars_format::scientific).ptr);
  const std::size_t mark = shortest.find('e');
  int exponent = 0;
  const char* digits = shortest.data() + mark + 1;
  if (*digits == '+') ++digits;
  std::from_chars(digits, shortest.data() + shortest.size(), exponent);
  if (exponent < -4 || exponent >= 16) return shortest;
  const std::string fixed(begin, std::to_chars(begin, limit, value, std::chars_format::fixed).ptr);
  return fixed.find('.') == std::string::npos ? fixed + ".0" : fixed;
}

std::string human_size(std::uint64_t size) {
  constexpr std::array<const char*, 5> kUnits{"B", "kB", "MB", "GB", "TB"};
  double value = static_cast<double>(size);
  std::size_t unit = 0;
  while (value >= 999.95 && unit + 1 < kUnits.size()) {
    value /= 1000;
    ++unit;
  }
  if (unit == 0) return std::to_string(size) + " B";
  std::array<char, 64> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::fixed, 1);
  return std::string(buffer.data(), end.ptr) + " " + kUnits[unit];
}

}  // namespace dit_deploy
