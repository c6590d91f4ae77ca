// Texts → token ids, by a tokenizer.json of the tokenizers library, truncation and padding included.
//
// A reader of our own: the file says everything, so that the runtime needs no library beside it whose version would have
// to fit. Untrusted: what is not known or does not fit together is a BundleError.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace dit_deploy::tokenizer {

struct Encoding {
  std::vector<std::int64_t> ids, attention_mask;
  bool cut = false;      // whether something was left out
  std::size_t read = 0;  // so many characters of the text do the tokens reach
};

class Tokenizer {
 public:
  // Of the bytes of a tokenizer.json; `name` is for messages. Throws BundleError.
  Tokenizer(std::string_view data, const std::string& name);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // Of texts in UTF-8, with special tokens; padded to one length where the file says so. Several threads may call it.
  // Throws BundleError where the file lacks what a text needs.
  std::vector<Encoding> encode(const std::vector<std::string>& texts) const;

 private:
  struct Parts;
  std::unique_ptr<const Parts> parts_;
};

}  // namespace dit_deploy::tokenizer
