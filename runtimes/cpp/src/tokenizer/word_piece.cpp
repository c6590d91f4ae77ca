// The longest pieces from the left, as BERT's tokenizer finds them.
#include <algorithm>
#include <limits>

#include "tokenizer/fields.h"
#include "tokenizer/model.h"

namespace dit_deploy::tokenizer {
namespace {

class WordPiece final : public Model {
 public:
  explicit WordPiece(const Json& json)
      : prefix_(string(json, "continuing_subword_prefix", "##")), vocabulary_(read_vocabulary(json)) {
    const auto found = vocabulary_.find(string(json, "unk_token", "[UNK]"));
    if (found == vocabulary_.end()) throw BundleError("unk_token is not in the vocabulary");
    unknown_ = found->second;
    for (const auto& one : vocabulary_) longest_ = std::max(longest_, one.first.size());
    const Json* most = find(json, "max_input_chars_per_word");
    if (most != nullptr) most_ = static_cast<std::size_t>(whole(*most, "max_input_chars_per_word", kLargestId));
  }

  void tokenize(const Text& piece, std::vector<Token>& out) const override {
    if (piece.empty()) return;
    const std::size_t before = out.size();
    for (std::size_t begin = 0; begin < piece.size();) {
      const std::size_t end = piece.size() > most_ ? begin : end_of_longest(piece, begin, out);
      if (end == begin) {  // the whole word is unknown
        out.resize(before);
        out.push_back({unknown_, piece.front().begin, piece.back().end});
        return;
      }
      begin = end;
    }
  }

 private:
  // Appends the longest piece at `begin`, and returns where it ends: at `begin` where there is none.
  std::size_t end_of_longest(const Text& piece, std::size_t begin, std::vector<Token>& out) const {
    std::string text = begin > 0 ? prefix_ : "";
    std::vector<std::size_t> sizes;  // in bytes, after each character
    for (std::size_t at = begin; at < piece.size() && text.size() <= longest_; ++at) {
      append_utf8(text, piece[at].code);
      sizes.push_back(text.size());
    }
    for (; !sizes.empty(); sizes.pop_back()) {
      text.resize(sizes.back());
      const auto found = vocabulary_.find(text);
      if (found == vocabulary_.end()) continue;
      const std::size_t end = begin + sizes.size();
      out.push_back({found->second, piece[begin].begin, piece[end - 1].end});
      return end;
    }
    return begin;
  }

  const std::string prefix_;
  const Vocabulary vocabulary_;
  std::int64_t unknown_ = 0;
  std::size_t longest_ = 0, most_ = 100;
};

}  // namespace

std::unique_ptr<Model> read_word_piece(const Json& json) { return std::make_unique<WordPiece>(json); }

}  // namespace dit_deploy::tokenizer
