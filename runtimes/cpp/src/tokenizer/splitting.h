// A text split where a pattern matches, in the ways that pre-tokenizers know.
#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include "tokenizer/regex.h"
#include "tokenizer/unicode.h"

namespace dit_deploy::tokenizer {

// What becomes of what matches.
enum class Behavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

// Parts of a text, one behind the other, that match or do not; together they are all of it.
struct Part {
  std::size_t first = 0, last = 0;
  bool matches = false;
};
std::vector<Part> parts(const Text& text, const Regex& pattern);
std::vector<Part> parts(const Text& text, const std::function<bool(char32_t)>& matches);
// What matches does not, and the other way round.
std::vector<Part> inverted(std::vector<Part> parts);

// The pieces of a text, without empty ones.
std::vector<Text> split(const Text& text, const std::vector<Part>& parts, Behavior behavior);

// `text` with every match replaced.
Text replaced(const Text& text, const Regex& pattern, std::u32string_view by);

}  // namespace dit_deploy::tokenizer
