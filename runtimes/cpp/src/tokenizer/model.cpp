#include "tokenizer/model.h"

#include "text.h"
#include "tokenizer/fields.h"

namespace dit_deploy::tokenizer {

Vocabulary read_vocabulary(const Json& model) {
  const Json& vocab = member(model, "vocab");
  if (!vocab.is_object()) throw BundleError("vocab is no object");
  Vocabulary vocabulary;
  vocabulary.reserve(vocab.size());
  for (auto item = vocab.begin(); item != vocab.end(); ++item) {
    vocabulary.emplace(item.key(), whole(item.value(), "an id", kLargestId));
  }
  return vocabulary;
}

std::vector<std::int64_t> byte_tokens(const Vocabulary& vocabulary, const std::string& utf8) {
  constexpr char kDigits[] = "0123456789ABCDEF";
  std::vector<std::int64_t> ids;
  for (const char letter : utf8) {
    const auto byte = static_cast<unsigned char>(letter);
    const auto found = vocabulary.find(std::string("<0x") + kDigits[byte >> 4] + kDigits[byte & 15] + ">");
    if (found == vocabulary.end()) return {};
    ids.push_back(found->second);
  }
  return ids;
}

std::unique_ptr<Model> read_model(const Json& json) {
  // Files of older versions name no type.
  const std::string otherwise = find(json, "merges") != nullptr ? "BPE" : "WordPiece";
  const std::string type = string(json, "type", otherwise.c_str());
  if (type == "BPE") return read_bpe(json);
  if (type == "Unigram") return read_unigram(json);
  if (type == "WordPiece") return read_word_piece(json);
  throw BundleError("the model " + quoted(std::string_view(type), 40) + " is not known");
}

}  // namespace dit_deploy::tokenizer
