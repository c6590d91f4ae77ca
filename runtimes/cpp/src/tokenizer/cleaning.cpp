#include "tokenizer/cleaning.h"

#include <algorithm>
#include <iterator>
#include <unordered_map>

#include "tokenizer/unicode.h"

namespace dit_deploy::tokenizer {
namespace {

#include "tokenizer/entities.inc"

// Python's str.isspace has four more than Unicode's White_Space.
bool is_space(char32_t code) { return is_white_space(code) || (code >= 0x1C && code <= 0x1F); }

using Entities = std::unordered_map<std::string, std::u32string>;

// "AMP;=26 …" → {"AMP;": "&"}
Entities read_entities() {
  Entities entities;
  const std::string_view all = kEntities;
  for (std::size_t at = 0; at < all.size();) {
    const std::size_t middle = all.find('=', at), end = all.find(' ', at);
    std::u32string characters;
    char32_t code = 0;
    for (const char letter : all.substr(middle + 1, end - middle - 1)) {
      if (letter == ',') {
        characters += code;
        code = 0;
      } else {
        code = code * 16 + static_cast<char32_t>(letter <= '9' ? letter - '0' : letter - 'a' + 10);
      }
    }
    entities.emplace(all.substr(at, middle - at), characters + code);
    at = end + 1;
  }
  return entities;
}

const Entities& entities() {
  static const Entities all = read_entities();
  return all;
}

// What &#N; stands for; numbers beyond Unicode are all the same.
std::u32string numbered(char32_t number) {
  constexpr char32_t kWindows[] = {0x20AC, 0x81,   0x201A, 0x192,  0x201E, 0x2026, 0x2020, 0x2021,
                                   0x2C6,  0x2030, 0x160,  0x2039, 0x152,  0x8D,   0x17D,  0x8F,
                                   0x90,   0x2018, 0x2019, 0x201C, 0x201D, 0x2022, 0x2013, 0x2014,
                                   0x2DC,  0x2122, 0x161,  0x203A, 0x153,  0x9D,   0x17E,  0x178};
  if (number >= 0x80 && number <= 0x9F) return std::u32string(1, kWindows[number - 0x80]);
  if (number == 0 || number > 0x10FFFF || (number >= 0xD800 && number <= 0xDFFF)) return U"\uFFFD";
  const bool control = (number < 0x20 && number != 0x9 && number != 0xA && number != 0xC && number != 0xD);
  const bool no_character = (number >= 0xFDD0 && number <= 0xFDEF) || (number & 0xFFFEU) == 0xFFFE;
  if (control || number == 0x7F || no_character) return {};
  return std::u32string(1, number);
}

int digit(char32_t code, int base) {
  const char32_t lower = code >= U'A' && code <= U'F' ? code + 32 : code;
  if (lower >= U'0' && lower <= U'9') return static_cast<int>(lower - U'0');
  return base == 16 && lower >= U'a' && lower <= U'f' ? static_cast<int>(lower - U'a' + 10) : -1;
}

// The reference that begins behind the "&" at `at`, appended to `out`; returns where it ends, `at` where there is none.
std::size_t unescape_number(std::u32string_view text, std::size_t at, std::u32string& out) {
  std::size_t end = at + 1;  // behind "#"
  const bool hexadecimal = end < text.size() && (text[end] == U'x' || text[end] == U'X');
  const int base = hexadecimal ? 16 : 10;
  if (hexadecimal) ++end;
  char32_t number = 0;
  const std::size_t first = end;
  for (; end < text.size() && digit(text[end], base) >= 0; ++end) {
    number = std::min<char32_t>(number * static_cast<char32_t>(base) + static_cast<char32_t>(digit(text[end], base)),
                                0x110000);
  }
  if (end == first) return at;
  out += numbered(number);
  return end < text.size() && text[end] == U';' ? end + 1 : end;
}

std::size_t unescape_name(std::u32string_view text, std::size_t at, std::u32string& out) {
  constexpr std::u32string_view kNever = U"\t\n\f <&#;";
  std::size_t end = at;
  while (end < text.size() && end - at < 32 && kNever.find(text[end]) == std::u32string_view::npos) ++end;
  if (end == at) return at;
  if (end < text.size() && text[end] == U';') ++end;
  std::string name;
  for (std::size_t i = at; i < end; ++i) append_utf8(name, text[i] < 0x80 ? text[i] : U'\x1F');  // no name has others
  for (std::size_t length = name.size(); length > 1; --length) {
    const auto found = entities().find(name.substr(0, length));
    if (found == entities().end()) continue;
    out += found->second;
    return at + length;
  }
  return at;
}

std::u32string unescaped(std::u32string_view text) {
  std::u32string out;
  for (std::size_t at = 0; at < text.size();) {
    if (text[at] == U'&' && at + 1 < text.size()) {
      const std::size_t end =
          text[at + 1] == U'#' ? unescape_number(text, at + 1, out) : unescape_name(text, at + 1, out);
      if (end > at + 1) {
        at = end;
        continue;
      }
    }
    out += text[at++];
  }
  return out;
}

// Whether a capital sigma at `at` ends a word: a cased letter stands before it and none behind it.
bool is_final_sigma(std::u32string_view text, std::size_t at) {
  std::size_t before = at, behind = at + 1;
  while (before > 0 && is_case_ignorable(text[before - 1])) --before;
  if (before == 0 || !is_cased(text[before - 1])) return false;
  while (behind < text.size() && is_case_ignorable(text[behind])) ++behind;
  return behind == text.size() || !is_cased(text[behind]);
}

std::u32string lowered(std::u32string_view text) {
  std::u32string out;
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (text[at] == 0x3A3 && is_final_sigma(text, at)) {
      out += 0x3C2;
    } else {
      out += lowercase(text[at]);
    }
  }
  return out;
}

std::u32string collapsed(std::u32string_view text) {
  std::u32string out;
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (!is_space(text[at])) {
      out += text[at];
    } else if (at == 0 || !is_space(text[at - 1])) {
      out += U' ';
    }
  }
  return out;
}

}  // namespace

std::u32string stripped(std::u32string_view text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return std::u32string(text);
}

std::string cleaned(std::string_view text, const std::string& step) {
  std::u32string characters = to_characters(text);
  if (step == "html_unescape") {
    characters = unescaped(unescaped(characters));  // twice, as the pipelines do: a page's "&amp;amp;" becomes "&"
  } else if (step == "lowercase") {
    characters = lowered(characters);
  } else if (step == "strip") {
    characters = stripped(characters);
  } else {
    characters = collapsed(characters);
  }
  std::string out;
  for (const char32_t code : characters) append_utf8(out, code);
  return out;
}

}  // namespace dit_deploy::tokenizer
