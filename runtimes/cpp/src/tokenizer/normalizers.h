// What tokenizer.json's "normalizer" does to a text.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>

#include "tokenizer/regex.h"
#include "tokenizer/unicode.h"

namespace dit_deploy::tokenizer {

using Normalizer = std::function<Text(Text)>;

// Of its JSON; null does nothing. Throws BundleError for a kind that is not known.
Normalizer read_normalizer(const nlohmann::json& json);

// {"String": …} or {"Regex": …}. Throws BundleError.
Regex read_pattern(const nlohmann::json& json);

}  // namespace dit_deploy::tokenizer
