// Regular expressions as tokenizer.json holds them, on characters: the part of Oniguruma's syntax that tokenizers use.
//
// Literals, ., classes of characters with ranges and \p{…}, \s \d \w, groups, (?i:…), (?=…) (?!…) (?<=…) (?<!…), (?>…),
// alternatives, greedy, lazy and possessive repetition, ^ $ \A \z \b. What goes beyond is refused by name. A match takes a
// bounded number of steps.
#pragma once

#include <bitset>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer/unicode.h"

namespace dit_deploy::tokenizer {

// A set of characters: `negated` turns all of it.
class CharacterSet {
 public:
  void add(char32_t first, char32_t last) { ranges_.emplace_back(first, last); }
  void add_categories(std::uint32_t categories, bool negated);
  void add_white_space(bool negated);
  void negate() { negated_ = true; }
  void fold() { folds_ = true; }
  // To be called once, when all is added.
  void finish();
  bool contains(char32_t code) const { return code < 128 ? ascii_[code] : looked_up(code); }

 private:
  bool looked_up(char32_t code) const;
  bool holds(char32_t code) const;

  std::vector<std::pair<char32_t, char32_t>> ranges_;
  std::vector<std::pair<std::uint32_t, bool>> categories_;
  bool white_space_ = false, no_white_space_ = false, negated_ = false, folds_ = false;
  std::bitset<128> ascii_;
};

class Regex {
 public:
  // Throws BundleError where the pattern is none, or beyond this reader.
  explicit Regex(std::string_view pattern);
  // One that matches `text` and nothing else.
  static Regex literal(std::string_view text);

  // The first match at or after `begin`, as [first, last). Throws BundleError where it takes too many steps: `steps` is
  // what is left of a budget for one text.
  std::optional<std::pair<std::size_t, std::size_t>> search(const Text& text, std::size_t begin,
                                                            std::size_t& steps) const;
  // A budget for a text.
  static std::size_t budget(const Text& text) { return 10'000 + 1'000 * text.size(); }

 private:
  friend class RegexCompiler;
  enum class Op : std::uint8_t {
    character,
    folded,
    set,
    any,
    split,
    jump,
    look,
    atomic,
    line_begin,
    line_end,
    text_begin,
    text_end,
    boundary,
    done
  };
  struct Instruction {
    Op op = Op::done;
    bool negated = false;  // look
    char32_t code = 0;     // character, folded
    std::uint32_t target =
        0;  // set: its place; split: what is tried first; jump; look, atomic: what comes behind the body
    std::uint32_t other = 0;  // split: what is tried then; look: how many characters it begins before
  };

  Regex() = default;
  // The end of a match of the program from `at`, or nothing.
  std::optional<std::size_t> run(const Text& text, std::uint32_t at, std::size_t position, std::size_t& steps) const;

  std::vector<Instruction> program_;
  std::vector<CharacterSet> sets_;
};

}  // namespace dit_deploy::tokenizer
