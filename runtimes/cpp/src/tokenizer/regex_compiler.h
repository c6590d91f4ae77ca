// From the text of a regular expression to the program that regex.cpp runs.
#pragma once

#include <string>
#include <string_view>

#include "tokenizer/regex.h"

namespace dit_deploy::tokenizer {

// Simple case folding, as far as tokenizers' expressions need it.
char32_t folded(char32_t code);

class RegexCompiler {
 public:
  RegexCompiler(std::string_view pattern, Regex& regex)
      : shown_(pattern), pattern_(to_characters(pattern)), out_(regex) {}
  // Throws BundleError.
  void compile();

 private:
  using Op = Regex::Op;
  // A part of the program: where it begins, and how many characters it matches.
  struct Part {
    std::size_t begin = 0, shortest = 0, longest = 0;
  };

  Part alternatives();
  Part sequence();
  Part repeated(Part part);
  Part repeat(const Part& part, std::size_t least, std::size_t most, char kind);
  Part atom();
  Part group();
  Part look(bool behind, bool negated);
  Part escape();
  Part character(char32_t code);
  Part set(CharacterSet set);
  CharacterSet bracket();
  bool add_class(CharacterSet& set, char32_t letter);
  char32_t escaped(char32_t letter);
  char32_t hexadecimal(std::size_t digits);
  std::size_t number();

  bool at_end() const { return at_ >= pattern_.size(); }
  bool next_is(std::u32string_view text) const { return pattern_.compare(at_, text.size(), text) == 0; }
  bool take(std::u32string_view text);
  char32_t take();
  std::size_t size() const { return out_.program_.size(); }
  Part emit(Regex::Instruction instruction, std::size_t characters = 0);
  void insert(std::size_t place, Regex::Instruction instruction);
  [[noreturn]] void refuse(const std::string& what) const;

  const std::string shown_;
  const std::u32string pattern_;
  Regex& out_;
  std::size_t at_ = 0;
  int depth_ = 0;
  bool folds_ = false;
};

}  // namespace dit_deploy::tokenizer
