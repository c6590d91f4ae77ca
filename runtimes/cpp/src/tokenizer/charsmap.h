// The character map that a sentencepiece model carries: a double array of texts and what each becomes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/unicode.h"

namespace dit_deploy::tokenizer {

class Charsmap {
 public:
  // Of precompiled_charsmap, in base64. Throws BundleError.
  explicit Charsmap(std::string_view base64);
  Text apply(const Text& text) const;

 private:
  // What the shortest text in the map that `key` begins with becomes.
  std::optional<std::string_view> find(std::string_view key) const;

  std::vector<std::uint32_t> array_;
  std::string texts_;  // each ends in a zero byte
};

}  // namespace dit_deploy::tokenizer
