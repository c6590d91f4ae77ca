// Byte-pair encoding (Sennrich et al. 2016): characters, merged pair by pair in the order of the merges.
#include <limits>
#include <optional>
#include <queue>
#include <tuple>

#include "text.h"
#include "tokenizer/fields.h"
#include "tokenizer/model.h"

namespace dit_deploy::tokenizer {
namespace {

constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();

// A token while others may still be merged with it.
struct Symbol {
  Token token;
  std::size_t before = kNone, behind = kNone;  // its neighbours
  bool gone = false;
};

struct Merge {
  std::size_t rank = 0;
  std::int64_t id = 0;
};

class Bpe final : public Model {
 public:
  explicit Bpe(const Json& json)
      : prefix_(string(json, "continuing_subword_prefix", "")),
        suffix_(string(json, "end_of_word_suffix", "")),
        fuse_unknown_(flag(json, "fuse_unk", false)),
        byte_fallback_(flag(json, "byte_fallback", false)),
        ignore_merges_(flag(json, "ignore_merges", false)),
        vocabulary_(read_vocabulary(json)) {
    const Json* dropout = find(json, "dropout");
    if (dropout != nullptr && *dropout != 0) throw BundleError("dropout makes tokens random");
    if (const Json* unknown = find(json, "unk_token")) {
      const auto found = vocabulary_.find(string(*unknown, "unk_token"));
      if (found != vocabulary_.end()) unknown_ = found->second;
      unknown_is_missing_ = !unknown_;
    }
    read_merges(list(json, "merges"));
  }

  void tokenize(const Text& piece, std::vector<Token>& out) const override {
    if (piece.empty()) return;
    if (ignore_merges_) {
      if (const auto found = vocabulary_.find(to_utf8(piece)); found != vocabulary_.end()) {
        out.push_back({found->second, piece.front().begin, piece.back().end});
        return;
      }
    }
    std::vector<Symbol> symbols = characters(piece);
    merge(symbols);
    for (const Symbol& symbol : symbols) {
      if (!symbol.gone) out.push_back(symbol.token);
    }
  }

 private:
  static std::uint64_t pair(std::int64_t first, std::int64_t second) {
    return static_cast<std::uint64_t>(first) << 32 | static_cast<std::uint64_t>(second);
  }

  void read_merges(const Json& merges) {
    merges_.reserve(merges.size());
    std::size_t rank = 0;
    for (const Json& one : merges) {
      const auto [first, second] = read_merge(one);
      const auto made = vocabulary_.find(first + (second.size() < prefix_.size() ? "" : second.substr(prefix_.size())));
      const auto one_id = vocabulary_.find(first), other_id = vocabulary_.find(second);
      if (made == vocabulary_.end() || one_id == vocabulary_.end() || other_id == vocabulary_.end()) {
        throw BundleError("a merge names " + quoted(std::string_view(first), 40) + " and " +
                          quoted(std::string_view(second), 40) +
                          ", which are not in the vocabulary with what they make");
      }
      merges_[pair(one_id->second, other_id->second)] = {rank++, made->second};
    }
  }

  // ["a", "b"], or "a b" in older files.
  static std::pair<std::string, std::string> read_merge(const Json& json) {
    if (json.is_array() && json.size() == 2) return {string(json[0], "a merge"), string(json[1], "a merge")};
    const std::string text = string(json, "a merge");
    const std::size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      throw BundleError("a merge is not two pieces");
    }
    return {text.substr(0, space), text.substr(space + 1)};
  }

  std::vector<Symbol> characters(const Text& piece) const {
    std::vector<Symbol> symbols;
    const auto add = [&](const Token& token) {
      Symbol symbol;
      symbol.token = token;
      symbols.push_back(symbol);
    };
    std::optional<Token> unknown;  // not added yet: the next one may be fused with it
    std::string text;
    for (std::size_t at = 0; at < piece.size(); ++at) {
      const Letter& letter = piece[at];
      text.clear();
      if (at > 0) text += prefix_;
      append_utf8(text, letter.code);
      if (at + 1 == piece.size()) text += suffix_;
      if (const auto found = vocabulary_.find(text); found != vocabulary_.end()) {
        if (unknown) add(*unknown);
        unknown.reset();
        add({found->second, letter.begin, letter.end});
        continue;
      }
      if (byte_fallback_) {
        const auto bytes = byte_tokens(vocabulary_, text);
        for (const std::int64_t id : bytes) add({id, letter.begin, letter.end});
        if (!bytes.empty()) continue;
      }
      if (unknown_is_missing_) throw BundleError("unk_token is not in the vocabulary");
      if (!unknown_) continue;
      if (unknown && fuse_unknown_) {
        unknown->end = letter.end;
        continue;
      }
      if (unknown) add(*unknown);
      unknown = Token{*unknown_, letter.begin, letter.end};
    }
    if (unknown) add(*unknown);
    for (std::size_t at = 0; at < symbols.size(); ++at) {
      if (at > 0) symbols[at].before = at - 1;
      if (at + 1 < symbols.size()) symbols[at].behind = at + 1;
    }
    return symbols;
  }

  void merge(std::vector<Symbol>& symbols) const {
    using Try = std::tuple<std::size_t, std::size_t, std::int64_t>;  // rank, place of the first, what is made
    std::priority_queue<Try, std::vector<Try>, std::greater<>> tries;
    const auto add = [&](std::size_t first, std::size_t second) {
      if (first == kNone || second == kNone) return;
      const auto found = merges_.find(pair(symbols[first].token.id, symbols[second].token.id));
      if (found != merges_.end()) tries.emplace(found->second.rank, first, found->second.id);
    };
    for (std::size_t at = 0; at + 1 < symbols.size(); ++at) add(at, at + 1);
    while (!tries.empty()) {
      const auto [rank, place, id] = tries.top();
      tries.pop();
      Symbol& first = symbols[place];
      if (first.gone || first.behind == kNone) continue;
      Symbol& second = symbols[first.behind];
      // What was merged since may have left another pair here.
      const auto found = merges_.find(pair(first.token.id, second.token.id));
      if (found == merges_.end() || found->second.id != id) continue;
      first.token.id = id;
      first.token.end = second.token.end;
      first.behind = second.behind;
      second.gone = true;
      if (second.behind != kNone) symbols[second.behind].before = place;
      add(first.before, place);
      add(place, first.behind);
    }
  }

  const std::string prefix_, suffix_;
  const bool fuse_unknown_, byte_fallback_, ignore_merges_;
  const Vocabulary vocabulary_;
  std::optional<std::int64_t> unknown_;
  bool unknown_is_missing_ = false;
  std::unordered_map<std::uint64_t, Merge> merges_;
};

}  // namespace

std::unique_ptr<Model> read_bpe(const Json& json) { return std::make_unique<Bpe>(json); }

}  // namespace dit_deploy::tokenizer
