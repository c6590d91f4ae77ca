// The most likely pieces by a unigram language model (Kudo 2018), as sentencepiece finds them.
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "tokenizer/fields.h"
#include "tokenizer/model.h"
#include "tokenizer/prefixes.h"

namespace dit_deploy::tokenizer {
namespace {

constexpr double kUnknownPenalty = 10;

class Unigram final : public Model {
 public:
  explicit Unigram(const Json& json) : byte_fallback_(flag(json, "byte_fallback", false)) {
    double lowest = std::numeric_limits<double>::infinity();
    for (const Json& entry : list(json, "vocab")) {
      if (!entry.is_array() || entry.size() != 2 || !entry[1].is_number()) {
        throw BundleError("vocab holds something else than pairs of a piece and a number");
      }
      const std::string piece = string(entry[0], "a piece");
      pieces_.add(to_characters(piece), scores_.size());
      if (byte_fallback_) vocabulary_[piece] = static_cast<std::int64_t>(scores_.size());
      scores_.push_back(entry[1].get<double>());
      lowest = std::min(lowest, scores_.back());
    }
    pieces_.finish();
    unknown_score_ = lowest - kUnknownPenalty;
    if (const Json* unknown = find(json, "unk_id")) {
      if (scores_.empty()) throw BundleError("unk_id names no piece");
      unknown_ = whole(*unknown, "unk_id", static_cast<std::int64_t>(scores_.size()) - 1);
    }
  }

  void tokenize(const Text& piece, std::vector<Token>& out) const override {
    const std::vector<Node> best = best_paths(piece);
    // From the end to the beginning; unknown pieces beside each other are one.
    std::vector<Node> path;
    for (std::size_t end = piece.size(); end > 0; end = best[end].begin) {
      Node node = best[end];
      node.end = end;
      if (node.unknown && !path.empty() && path.back().unknown) {
        path.back().begin = node.begin;
      } else {
        path.push_back(node);
      }
    }
    for (auto node = path.rbegin(); node != path.rend(); ++node) add(piece, *node, out);
  }

 private:
  // The best path that ends at a place, by its last piece.
  struct Node {
    double score = 0;
    std::size_t begin = 0, end = 0;
    std::int64_t id = 0;
    bool reached = false, unknown = false;
  };

  std::vector<Node> best_paths(const Text& piece) const {
    std::vector<Node> best(piece.size() + 1);
    for (std::size_t at = 0; at < piece.size(); ++at) {
      const double score = best[at].score;
      const auto offer = [&](std::size_t length, double own, std::int64_t id) {
        Node& node = best[at + length];
        if (node.reached && !(score + own > node.score)) return;
        node = {score + own, at, 0, id, true, unknown_ && id == *unknown_};
      };
      bool alone = false;  // whether a piece is this one character
      pieces_.visit(piece, at, [&](std::size_t length, std::size_t number) {
        offer(length, scores_[number], static_cast<std::int64_t>(number));
        alone = alone || length == 1;
      });
      if (alone) continue;
      if (!unknown_) throw BundleError("a text holds what no piece covers, and there is no unk_id");
      offer(1, unknown_score_, *unknown_);
    }
    return best;
  }

  void add(const Text& piece, const Node& node, std::vector<Token>& out) const {
    const std::uint32_t begin = piece[node.begin].begin, end = piece[node.end - 1].end;
    if (node.unknown && byte_fallback_) {
      const auto first = piece.begin() + static_cast<std::ptrdiff_t>(node.begin);
      const auto last = piece.begin() + static_cast<std::ptrdiff_t>(node.end);
      const std::string text = to_utf8({first, last});
      const bool named = vocabulary_.count(text) != 0;  // "<unk>" itself
      const auto bytes = named ? std::vector<std::int64_t>{node.id} : byte_tokens(vocabulary_, text);
      for (const std::int64_t id : bytes) out.push_back({id, begin, end});
      if (!bytes.empty()) return;
    }
    out.push_back({node.id, begin, end});
  }

  const bool byte_fallback_;
  Prefixes pieces_;
  std::vector<double> scores_;
  Vocabulary vocabulary_;  // for byte_fallback
  double unknown_score_ = 0;
  std::optional<std::int64_t> unknown_;
};

}  // namespace

std::unique_ptr<Model> read_unigram(const Json& json) { return std::make_unique<Unigram>(json); }

}  // namespace dit_deploy::tokenizer
