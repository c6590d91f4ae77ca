// Fields of tokenizer.json, read with their types. A key that is not asked for is ignored, as the tokenizers library does.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "dit_deploy/errors.hpp"

namespace dit_deploy::tokenizer {

using Json = nlohmann::json;

// nullptr where the key is missing or null.
inline const Json* find(const Json& object, const char* key) {
  if (!object.is_object()) throw BundleError(std::string("an object was expected that has ") + key);
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

inline const Json& member(const Json& object, const char* key) {
  const Json* found = find(object, key);
  if (found == nullptr) throw BundleError(std::string(key) + " is missing");
  return *found;
}

inline bool flag(const Json& object, const char* key, bool otherwise) {
  const Json* found = find(object, key);
  if (found == nullptr) return otherwise;
  if (!found->is_boolean()) throw BundleError(std::string(key) + " is not true or false");
  return found->get<bool>();
}

inline std::string string(const Json& value, const char* what) {
  if (!value.is_string()) throw BundleError(std::string(what) + " is no text");
  return value.get<std::string>();
}

inline std::string string(const Json& object, const char* key, const char* otherwise) {
  const Json* found = find(object, key);
  return found == nullptr ? otherwise : string(*found, key);
}

inline const Json& list(const Json& object, const char* key) {
  const Json& found = member(object, key);
  if (!found.is_array()) throw BundleError(std::string(key) + " is no list");
  return found;
}

// The largest number of tokens, and id of one.
inline constexpr std::int64_t kMostTokens = 1 << 20, kLargestId = 0x7fffffff;

inline std::int64_t whole(const Json& value, const char* what, std::int64_t most) {
  // What does not fit into 64 bits with a sign is read as unsigned.
  if (!value.is_number_integer() || value.is_number_unsigned()) {
    throw BundleError(std::string(what) + " is no whole number that fits");
  }
  const auto number = value.get<std::int64_t>();
  if (number < 0 || number > most) throw BundleError(std::string(what) + " is out of range");
  return number;
}

}  // namespace dit_deploy::tokenizer
