#include "tokenizer/splitting.h"

#include <algorithm>

namespace dit_deploy::tokenizer {
namespace {

std::vector<Part> joined(const std::vector<Part>& parts, Behavior behavior) {
  std::vector<Part> out;
  bool before = false;  // whether the part before matched
  for (const Part& part : parts) {
    const bool joins = behavior == Behavior::contiguous ? part.matches == before : part.matches && !before;
    if (joins && !out.empty()) {
      out.back().last = part.last;
    } else {
      out.push_back(part);
    }
    before = part.matches;
  }
  return out;
}

std::vector<Part> joined_with_next(const std::vector<Part>& parts) {
  std::vector<Part> out;
  bool behind = false;
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
    if (part->matches && !behind && !out.empty()) {
      out.back().first = part->first;
    } else {
      out.push_back(*part);
    }
    behind = part->matches;
  }
  std::reverse(out.begin(), out.end());
  return out;
}

}  // namespace

std::vector<Part> parts(const Text& text, const Regex& pattern) {
  std::vector<Part> found;
  std::size_t before = 0, steps = Regex::budget(text);
  for (std::size_t at = 0; at <= text.size();) {
    const auto match = pattern.search(text, at, steps);
    if (!match) break;
    const auto [first, last] = *match;
    at = last == first ? last + 1 : last;
    if (before != first) found.push_back({before, first, false});
    found.push_back({first, last, true});
    before = last;
  }
  if (before != text.size()) found.push_back({before, text.size(), false});
  return found;
}

std::vector<Part> parts(const Text& text, const std::function<bool(char32_t)>& matches) {
  std::vector<Part> found;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const bool one = matches(text[at].code);
    if (one || found.empty() || found.back().matches) {
      found.push_back({at, at + 1, one});
    } else {
      found.back().last = at + 1;
    }
  }
  return found;
}

std::vector<Part> inverted(std::vector<Part> parts) {
  for (Part& part : parts) part.matches = !part.matches;
  return parts;
}

std::vector<Text> split(const Text& text, const std::vector<Part>& parts, Behavior behavior) {
  std::vector<Part> kept;
  switch (behavior) {
    case Behavior::removed:
      std::copy_if(parts.begin(), parts.end(), std::back_inserter(kept), [](const Part& one) { return !one.matches; });
      break;
    case Behavior::isolated:
      kept = parts;
      break;
    case Behavior::merged_with_previous:
    case Behavior::contiguous:
      kept = joined(parts, behavior);
      break;
    case Behavior::merged_with_next:
      kept = joined_with_next(parts);
      break;
  }
  std::vector<Text> pieces;
  for (const Part& part : kept) {
    if (part.first == part.last) continue;
    const auto begin = text.begin();
    pieces.emplace_back(begin + static_cast<std::ptrdiff_t>(part.first),
                        begin + static_cast<std::ptrdiff_t>(part.last));
  }
  return pieces;
}

Text replaced(const Text& text, const Regex& pattern, std::u32string_view by) {
  Text out;
  for (const Part& part : parts(text, pattern)) {
    if (!part.matches) {
      out.insert(out.end(), text.begin() + static_cast<std::ptrdiff_t>(part.first),
                 text.begin() + static_cast<std::ptrdiff_t>(part.last));
      continue;
    }
    // Of what is replaced; where that is nothing, of what stands before it.
    const std::uint32_t place = part.first < text.size() ? text[part.first].begin : text.empty() ? 0 : text.back().end;
    const std::uint32_t end = part.first < part.last ? text[part.last - 1].end : place;
    for (const char32_t code : by) out.push_back({code, place, end});
    check_length(out);
  }
  return out;
}

}  // namespace dit_deploy::tokenizer
