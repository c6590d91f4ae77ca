// Texts with numbers, and which of them stand at a place of another text.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "tokenizer/unicode.h"

namespace dit_deploy::tokenizer {

class Prefixes {
 public:
  void add(std::u32string text, std::size_t number) {
    if (!text.empty()) entries_.emplace_back(std::move(text), number);
  }
  // To be called once, when all are added. Of the same text twice, the later one counts.
  void finish() {
    const auto less = [](const Entry& one, const Entry& other) { return one.first < other.first; };
    std::stable_sort(entries_.begin(), entries_.end(), less);
    auto out = entries_.begin();
    for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
      if (entry + 1 != entries_.end() && (entry + 1)->first == entry->first) continue;
      if (out != entry) *out = std::move(*entry);
      ++out;
    }
    entries_.erase(out, entries_.end());
  }
  bool empty() const { return entries_.empty(); }

  // Calls visit(length, number) for each text that stands at `at`, the shortest first.
  template <typename Visit>
  void visit(const Text& text, std::size_t at, Visit&& visit) const {
    auto low = entries_.begin(), high = entries_.end();
    for (std::size_t depth = 0; at + depth < text.size() && low != high; ++depth) {
      const char32_t code = text[at + depth].code;
      // All in [low, high) begin with the same `depth` characters; one that is no longer comes first.
      const auto before = [&](const Entry& entry, char32_t one) {
        return entry.first.size() <= depth || entry.first[depth] < one;
      };
      low = std::lower_bound(low, high, code, before);
      high =
          std::upper_bound(low, high, code, [&](char32_t one, const Entry& entry) { return one < entry.first[depth]; });
      if (low != high && low->first.size() == depth + 1) visit(depth + 1, low->second);
    }
  }

 private:
  using Entry = std::pair<std::u32string, std::size_t>;
  std::vector<Entry> entries_;
};

}  // namespace dit_deploy::tokenizer
