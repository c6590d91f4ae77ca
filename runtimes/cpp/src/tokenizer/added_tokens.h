// Tokens that are looked for in a text before anything else: tokenizer.json's "added_tokens".
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "tokenizer/model.h"
#include "tokenizer/normalizers.h"
#include "tokenizer/prefixes.h"

namespace dit_deploy::tokenizer {

class AddedTokens {
 public:
  // Of the list; nullptr is an empty one. Throws BundleError.
  AddedTokens(const nlohmann::json* list, const Normalizer& normalizer);

  // Calls piece(text) for what is no added token, normalised, and token(…) for each that is, in order.
  void split(const Text& text, const Normalizer& normalizer, const std::function<void(Text)>& piece,
             const std::function<void(const Token&)>& token) const;

 private:
  struct Added {
    std::int64_t id = 0;
    bool single_word = false, strips_left = false, strips_right = false;
  };

  void split_by(const Prefixes& names, const Text& text, const std::function<void(Text)>& piece,
                const std::function<void(const Token&)>& token) const;

  std::vector<Added> added_;
  Prefixes plain_, normalized_;  // looked for before and after the text is normalised
};

}  // namespace dit_deploy::tokenizer
