// From a piece of a text to tokens: tokenizer.json's "model".
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <unordered_map>
#include <vector>

#include "tokenizer/unicode.h"

namespace dit_deploy::tokenizer {

// A token, and which characters of the first text it stands for.
struct Token {
  std::int64_t id = 0;
  std::uint32_t begin = 0, end = 0;
};

class Model {
 public:
  virtual ~Model() = default;
  // Appends the tokens of a piece. Throws BundleError where the model lacks what it needs.
  virtual void tokenize(const Text& piece, std::vector<Token>& out) const = 0;
};

// Throws BundleError.
std::unique_ptr<Model> read_model(const nlohmann::json& json);
std::unique_ptr<Model> read_bpe(const nlohmann::json& json);
std::unique_ptr<Model> read_unigram(const nlohmann::json& json);
std::unique_ptr<Model> read_word_piece(const nlohmann::json& json);

using Vocabulary = std::unordered_map<std::string, std::int64_t>;
// {"piece": id, …} in the field "vocab".
Vocabulary read_vocabulary(const nlohmann::json& model);

// The ids of "<0x41>" … of the bytes of a text; empty where one of them has none.
std::vector<std::int64_t> byte_tokens(const Vocabulary& vocabulary, const std::string& utf8);

}  // namespace dit_deploy::tokenizer
