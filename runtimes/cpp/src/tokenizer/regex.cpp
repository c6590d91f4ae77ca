#include "tokenizer/regex.h"

#include <algorithm>
#include <tuple>

#include "dit_deploy/errors.hpp"
#include "tokenizer/regex_compiler.h"

namespace dit_deploy::tokenizer {
namespace {

bool is_word(const Text& text, std::size_t position) {
  return position < text.size() && is_in(text[position].code, kWord);
}

}  // namespace

char32_t folded(char32_t code) {
  if (code == 0x17F) return U's';  // long s
  const std::u32string lower = lowercase(code);
  return lower.size() == 1 ? lower[0] : code;
}

void CharacterSet::add_categories(std::uint32_t categories, bool negated) {
  categories_.emplace_back(categories, negated);
}

void CharacterSet::add_white_space(bool negated) { (negated ? no_white_space_ : white_space_) = true; }

void CharacterSet::finish() {
  for (char32_t code = 0; code < 128; ++code) ascii_[code] = looked_up(code);
}

bool CharacterSet::looked_up(char32_t code) const {
  bool inside = holds(code);
  if (folds_ && !inside) {
    const char32_t lower = folded(code);
    inside = holds(lower) || (lower >= U'a' && lower <= U'z' && holds(lower - 32));
  }
  return inside != negated_;
}

bool CharacterSet::holds(char32_t code) const {
  for (const auto& [first, last] : ranges_) {
    if (first <= code && code <= last) return true;
  }
  for (const auto& [categories, negated] : categories_) {
    if (is_in(code, categories) != negated) return true;
  }
  if (!white_space_ && !no_white_space_) return false;
  return is_white_space(code) ? white_space_ : no_white_space_;
}

Regex::Regex(std::string_view pattern) { RegexCompiler(pattern, *this).compile(); }

Regex Regex::literal(std::string_view text) {
  Regex regex;
  for (const char32_t code : to_characters(text)) regex.program_.push_back({Op::character, false, code});
  regex.program_.push_back({});
  return regex;
}

std::optional<std::pair<std::size_t, std::size_t>> Regex::search(const Text& text, std::size_t begin,
                                                                 std::size_t& steps) const {
  for (std::size_t first = begin; first <= text.size(); ++first) {
    if (const auto last = run(text, 0, first, steps)) return std::pair(first, *last);
  }
  return std::nullopt;
}

std::optional<std::size_t> Regex::run(const Text& text, std::uint32_t at, std::size_t position,
                                      std::size_t& steps) const {
  std::vector<std::pair<std::uint32_t, std::size_t>> tries;  // what is tried where this way fails
  for (;;) {
    if (steps-- == 0) {
      steps = 0;
      throw BundleError("a regular expression takes too many steps on this text");
    }
    const Instruction& one = program_[at];
    const bool inside = position < text.size();
    bool fits = true;
    std::uint32_t next = at + 1;
    std::size_t moved = position;
    switch (one.op) {
      case Op::character:
        fits = inside && text[position].code == one.code;
        moved = position + 1;
        break;
      case Op::folded:
        fits = inside && folded(text[position].code) == one.code;
        moved = position + 1;
        break;
      case Op::set:
        fits = inside && sets_[one.target].contains(text[position].code);
        moved = position + 1;
        break;
      case Op::any:
        fits = inside && text[position].code != U'\n';
        moved = position + 1;
        break;
      case Op::split:
        tries.emplace_back(one.other, position);
        next = one.target;
        break;
      case Op::jump:
        next = one.target;
        break;
      case Op::look:
        fits = position >= one.other && run(text, at + 1, position - one.other, steps).has_value();
        fits = fits != one.negated;
        next = one.target;
        break;
      case Op::atomic: {
        const auto end = run(text, at + 1, position, steps);
        fits = end.has_value();
        moved = end.value_or(position);
        next = one.target;
        break;
      }
      case Op::line_begin:
        fits = position == 0 || text[position - 1].code == U'\n';
        break;
      case Op::line_end:
        fits = !inside || text[position].code == U'\n';
        break;
      case Op::text_begin:
        fits = position == 0;
        break;
      case Op::text_end:
        fits = !inside;
        break;
      case Op::boundary:
        fits = (is_word(text, position) != (position > 0 && is_word(text, position - 1))) != one.negated;
        break;
      case Op::done:
        return position;
    }
    if (fits) {
      at = next;
      position = moved;
    } else if (tries.empty()) {
      return std::nullopt;
    } else {
      std::tie(at, position) = tries.back();
      tries.pop_back();
    }
  }
}

}  // namespace dit_deploy::tokenizer
