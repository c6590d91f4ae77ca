// Strict JSON: one meaning for every reader, or a refusal; dit_deploy/bundle/_json.py.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace dit_deploy::bundle {

// Parses the bytes of one JSON document. Refused: bytes that are no UTF-8, a key that occurs twice, NaN, numbers too
// large for a double, lone surrogates, and more than 201 objects or lists in one another. Infinity and -Infinity pass
// only with `infinity` and are then infinite floats: diffusers writes them into scheduler configs.
//
// An integer is number_integer (int64) where it fits, else number_unsigned (uint64), else number_float. Throws
// BundleError, whose message starts with `name`.
nlohmann::json read_json(std::string_view data, const std::string& name, bool infinity = false);
// The same, and the document must be an object.
nlohmann::json read_object(std::string_view data, const std::string& name, bool infinity = false);
// The same, with the keys in the document's order.
nlohmann::ordered_json read_ordered_object(std::string_view data, const std::string& name);

// A value as Python's repr shows it, on one line and cut at `limit` characters: what came, for a message.
std::string value_text(const nlohmann::ordered_json& value, std::size_t limit = 60);

}  // namespace dit_deploy::bundle
