// Text for messages, as the Python package writes it: dit_deploy/text.py, and Python's own repr.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace dit_deploy {

inline constexpr std::size_t kNoLimit = static_cast<std::size_t>(-1);

// `text` with every run of white space as one space, cut at `limit` characters (not bytes) with an ellipsis. Control
// characters, and bytes that are no UTF-8, are written as escapes.
std::string one_line(std::string_view text, std::size_t limit = 300);
// 'text' as Python's repr writes it, on one line and cut: what came, for a message.
std::string quoted(std::string_view text, std::size_t limit = 120);
// For strings, where std::quoted would be taken else.
std::string quoted(const std::string& text);
std::string quoted(std::string& text);
std::string quoted(const char* text);
// `text` with control characters, and bytes that are no UTF-8, as escapes: the name of a file.
std::string printable(std::string_view text);
std::string join(const std::vector<std::string>& parts, std::string_view separator = ", ");
// As printf("%.*g") writes it, whatever the locale.
std::string number_text(double value, int precision = 6);
// As Python's repr writes it: the shortest text that reads as the same number, "1.0", "1e-05", "inf".
std::string number_repr(double value);
// "999 B", "1.5 kB", "2.7 GB" (powers of 1000).
std::string human_size(std::uint64_t size);

// One character of a text; `length` bytes. Where the bytes are no UTF-8, `valid` is false and `code` is the byte.
struct Character {
  char32_t code = 0;
  std::size_t length = 1;
  bool valid = true;
};
Character character_at(std::string_view text, std::size_t position);
void append_character(std::string& text, char32_t code);

}  // namespace dit_deploy
