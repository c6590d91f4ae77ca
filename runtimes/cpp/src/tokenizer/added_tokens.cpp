#include "tokenizer/added_tokens.h"

#include "tokenizer/fields.h"

namespace dit_deploy::tokenizer {

AddedTokens::AddedTokens(const Json* list, const Normalizer& normalizer) {
  if (list == nullptr) return;
  if (!list->is_array()) throw BundleError("added_tokens is no list");
  for (const Json& one : *list) {
    const std::string content = string(member(one, "content"), "content");
    Text text = to_text(content);
    const bool normalized = flag(one, "normalized", !flag(one, "special", false));
    if (normalized) text = normalizer(std::move(text));
    (normalized ? normalized_ : plain_).add(to_characters(to_utf8(text)), added_.size());
    added_.push_back({whole(member(one, "id"), "id", kLargestId), flag(one, "single_word", false),
                      flag(one, "lstrip", false), flag(one, "rstrip", false)});
  }
  plain_.finish();
  normalized_.finish();
}

void AddedTokens::split(const Text& text, const Normalizer& normalizer, const std::function<void(Text)>& piece,
                        const std::function<void(const Token&)>& token) const {
  split_by(plain_, text, [&](Text part) { split_by(normalized_, normalizer(std::move(part)), piece, token); }, token);
}

void AddedTokens::split_by(const Prefixes& names, const Text& text, const std::function<void(Text)>& piece,
                           const std::function<void(const Token&)>& token) const {
  const auto part = [&](std::size_t first, std::size_t last) {
    if (first >= last) return;
    piece({text.begin() + static_cast<std::ptrdiff_t>(first), text.begin() + static_cast<std::ptrdiff_t>(last)});
  };
  std::size_t done = 0;
  for (std::size_t at = 0; !names.empty() && at < text.size();) {
    std::size_t length = 0, number = 0;  // of the longest one
    names.visit(text, at, [&](std::size_t one, std::size_t which) {
      length = one;
      number = which;
    });
    if (length == 0) {
      ++at;
      continue;
    }
    const Added& added = added_[number];
    std::size_t first = at, last = at + length;
    at = last;
    if (added.single_word) {
      const auto is_word = [&](std::size_t place) { return is_in(text[place].code, kWord | bit(Category::Nl)); };
      if ((first > 0 && is_word(first - 1)) || (last < text.size() && is_word(last))) continue;
    }
    while (added.strips_left && first > done && is_white_space(text[first - 1].code)) --first;
    while (added.strips_right && last < text.size() && is_white_space(text[last].code)) ++last;
    // What an earlier one took with it is not taken twice.
    first = std::max(first, done);
    if (last <= done) continue;
    part(done, first);
    token({added.id, text[first].begin, text[last - 1].end});
    done = last;
  }
  part(done, text.size());
}

}  // namespace dit_deploy::tokenizer
