// What tokenizer.json's "pre_tokenizer" makes of a text: the pieces that a model gets.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "tokenizer/unicode.h"

namespace dit_deploy::tokenizer {

using PreTokenizer = std::function<std::vector<Text>(std::vector<Text>)>;

// Of its JSON; null does nothing. Throws BundleError for a kind that is not known.
PreTokenizer read_pre_tokenizer(const nlohmann::json& json);

}  // namespace dit_deploy::tokenizer
