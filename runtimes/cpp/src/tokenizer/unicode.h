// What Unicode says of characters, from tables that tables.py wrote; and a text whose characters know where they were.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace dit_deploy::tokenizer {

// General categories, in the order of tables.py.
enum class Category : std::uint8_t {
  Cn,
  Cc,
  Cf,
  Co,
  Cs,
  Ll,
  Lm,
  Lo,
  Lt,
  Lu,
  Mc,
  Me,
  Mn,
  Nd,
  Nl,
  No,
  Pc,
  Pd,
  Pe,
  Pf,
  Pi,
  Po,
  Ps,
  Sc,
  Sk,
  Sm,
  So,
  Zl,
  Zp,
  Zs
};
Category category(char32_t code);

// Sets of categories, a bit each.
constexpr std::uint32_t bit(Category one) { return std::uint32_t{1} << static_cast<unsigned>(one); }
constexpr std::uint32_t bits(Category first, Category last) { return (bit(last) << 1) - bit(first); }
constexpr std::uint32_t kOther = bits(Category::Cn, Category::Cs), kLetter = bits(Category::Ll, Category::Lu);
constexpr std::uint32_t kMark = bits(Category::Mc, Category::Mn), kNumber = bits(Category::Nd, Category::No);
constexpr std::uint32_t kPunctuation = bits(Category::Pc, Category::Ps), kSymbol = bits(Category::Sc, Category::So);
constexpr std::uint32_t kSeparator = bits(Category::Zl, Category::Zs);
constexpr std::uint32_t kWord = kLetter | kMark | bit(Category::Nd) | bit(Category::Pc);
inline bool is_in(char32_t code, std::uint32_t set) { return (set & bit(category(code))) != 0; }

// The property White_Space.
bool is_white_space(char32_t code);
// "!" … "~" without letters and digits.
bool is_ascii_punctuation(char32_t code);
// The lower case of one character, which is two for U+0130.
std::u32string lowercase(char32_t code);
// As Python's str.lower looks for what a capital sigma at a word's end stands behind.
bool is_cased(char32_t code);
bool is_case_ignorable(char32_t code);

// A character, and which characters of the first text it was made of: `end` is left out.
struct Letter {
  char32_t code = 0;
  std::uint32_t begin = 0, end = 0;
};
using Text = std::vector<Letter>;

// UTF-8 ↔ characters; bytes that are no UTF-8 become U+FFFD.
Text to_text(std::string_view utf8);
std::u32string to_characters(std::string_view utf8);
void append_utf8(std::string& out, char32_t code);
std::string to_utf8(const Text& text);

// Throws BundleError where a text has become longer than any that is read: a file may ask for it to grow without end.
void check_length(const Text& text);

enum class Form { nfc, nfd, nfkc, nfkd };
Text normalized(const Text& text, Form form);

}  // namespace dit_deploy::tokenizer
