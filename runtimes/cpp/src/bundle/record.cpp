#include "bundle/record.h"

#include <algorithm>
#include <cmath>

#include "bundle/json.h"
#include "dit_deploy/errors.hpp"
#include "text.h"

namespace dit_deploy::bundle {
namespace {

constexpr std::int64_t kVersion = 1;

bool is_lower(char one) { return one >= 'a' && one <= 'z'; }
bool is_digit(char one) { return one >= '0' && one <= '9'; }

bool fits_name(std::string_view text) {
  return !text.empty() && is_lower(text[0]) &&
         std::all_of(text.begin(), text.end(), [](char one) { return is_lower(one) || is_digit(one) || one == '_'; });
}

bool fits_sha256(std::string_view text) {
  return text.size() == 64 &&
         std::all_of(text.begin(), text.end(), [](char one) { return is_digit(one) || (one >= 'a' && one <= 'f'); });
}

std::size_t characters(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(
      text.begin(), text.end(), [](char one) { return (static_cast<unsigned char>(one) & 0xc0U) != 0x80; }));
}

// "input should be 'a', 'b' or 'c'"
std::string one_of(std::initializer_list<const char*> values) {
  std::string text = "input should be ";
  std::size_t index = 0;
  for (const char* value : values) {
    if (index > 0) text += index + 1 == values.size() ? " or " : ", ";
    text += '\'' + std::string(value) + '\'';
    ++index;
  }
  return text;
}

}  // namespace

const Pattern kName{"^[a-z][a-z0-9_]*$", fits_name, 64};
const Pattern kSha256{"^[0-9a-f]{64}$", fits_sha256};

std::string Place::text() const {
  if (parent == nullptr) return "";
  const std::string before = parent->text();
  const std::string own = index < 0 ? std::string(key) : std::to_string(index);
  return before.empty() ? own : before + "." + own;
}

void Faults::add(const Place& where, const std::string& message) {
  if (count_++ > 0) return;
  where_ = where.text();
  message_ = message;
}

void Faults::add(const Place& where, const std::string& message, const Json& came, bool minor) {
  if (!minor) {
    add(where, count_ > 0 ? message : message + ", but got " + value_text(came));
  } else if (minor_++ == 0) {
    minor_where_ = where.text();
    minor_message_ = message + ", but got " + value_text(came);
  }
}

void Faults::raise(const std::string& name, const std::string& root) const {
  if (count() == 0) return;
  const bool major = count_ > 0;
  const std::string& where = major ? where_ : minor_where_;
  const std::size_t more = (major ? count_ : minor_) - 1;
  const std::string text = (where.empty() ? root : where) + ": " + (major ? message_ : minor_message_) +
                           (more > 0 ? " (and " + std::to_string(more) + " more)" : "");
  throw BundleError(name + ": " + one_line(text, 500));
}

bool check_string(const Json& value, const Place& where, Faults& faults, const Pattern* pattern) {
  if (!value.is_string()) {
    faults.add(where, "input should be a valid string", value);
    return false;
  }
  if (pattern == nullptr) return true;
  const auto& text = value.get_ref<const std::string&>();
  if (pattern->longest > 0 && characters(text) > pattern->longest) {
    faults.add(where, "string should have at most " + std::to_string(pattern->longest) + " characters", value);
    return false;
  }
  if (pattern->fits(text)) return true;
  faults.add(where, std::string("string should match pattern '") + pattern->text + "'", value);
  return false;
}

bool check_integer(const Json& value, const Place& where, Faults& faults, std::int64_t minimum) {
  if (value.is_number_unsigned()) {  // see json.h
    faults.add(where, "input should be an integer below 2^63", value);
    return false;
  }
  if (!value.is_number_integer()) {
    faults.add(where, "input should be a valid integer", value, value.is_object());
    return false;
  }
  if (value.get<std::int64_t>() >= minimum) return true;
  faults.add(where, "input should be greater than or equal to " + std::to_string(minimum), value);
  return false;
}

bool check_number(const Json& value, const Place& where, Faults& faults) {
  if (value.is_number()) return true;
  faults.add(where, "input should be a valid number", value);
  return false;
}

bool check_choice(const Json& value, const Place& where, Faults& faults, std::initializer_list<const char*> values) {
  if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    if (std::find(values.begin(), values.end(), text) != values.end()) return true;
  }
  faults.add(where, one_of(values), value);
  return false;
}

void check_key(const std::string& key, const Place& where, Faults& faults, const Pattern& pattern) {
  if ((pattern.longest == 0 || characters(key) <= pattern.longest) && pattern.fits(key)) return;
  check_string(Json(key), where, faults, &pattern);
}

Fields::Fields(const Json& value, const Place& where, Faults& faults) : where_(where), faults_(faults) {
  if (value.is_object()) {
    value_ = &value;
  } else {
    faults_.add(where_, "input should be an object", value);
  }
}

const Json* Fields::find(std::string_view key, bool required) {
  if (value_ == nullptr) return nullptr;
  asked_.push_back(key);
  for (auto item = value_->begin(); item != value_->end(); ++item) {
    if (item.key() == key) return &*item;
  }
  if (required) faults_.add(where_.at(key), "is required, but missing");
  return nullptr;
}

void Fields::finish() {
  if (value_ == nullptr) return;
  for (auto item = value_->begin(); item != value_->end(); ++item) {
    if (std::find(asked_.begin(), asked_.end(), item.key()) == asked_.end())
      faults_.add(where_.at(item.key()), "is not a known field");
  }
}

void Fields::string(const char* key, std::string& out, bool required) {
  const Json* value = find(key, required);
  if (value != nullptr && check_string(*value, where_.at(key), faults_)) out = value->get<std::string>();
}

void Fields::string(const char* key, std::string& out, const Pattern& pattern) {
  const Json* value = find(key, true);
  if (value != nullptr && check_string(*value, where_.at(key), faults_, &pattern)) out = value->get<std::string>();
}

void Fields::string(const char* key, std::optional<std::string>& out, const Pattern* pattern) {
  const Json* value = find(key, false);
  if (value == nullptr) return;
  if (value->is_null()) {
    out.reset();
  } else if (check_string(*value, where_.at(key), faults_, pattern)) {
    out = value->get<std::string>();
  }
}

void Fields::integer(const char* key, std::int64_t& out, std::int64_t minimum, bool required) {
  const Json* value = find(key, required);
  if (value != nullptr && check_integer(*value, where_.at(key), faults_, minimum)) out = value->get<std::int64_t>();
}

void Fields::integer(const char* key, std::optional<std::int64_t>& out, std::int64_t minimum) {
  const Json* value = find(key, false);
  if (value == nullptr || value->is_null()) return;
  if (check_integer(*value, where_.at(key), faults_, minimum)) out = value->get<std::int64_t>();
}

void Fields::number(const char* key, double& out) {
  const Json* value = find(key, false);
  if (value != nullptr && check_number(*value, where_.at(key), faults_)) out = value->get<double>();
}

void Fields::number(const char* key, std::optional<double>& out) {
  const Json* value = find(key, false);
  if (value == nullptr || value->is_null()) return;
  if (check_number(*value, where_.at(key), faults_)) out = value->get<double>();
}

void Fields::boolean(const char* key, bool& out) {
  const Json* value = find(key, false);
  if (value == nullptr) return;
  if (value->is_boolean()) {
    out = value->get<bool>();
  } else {
    faults_.add(where_.at(key), "input should be a valid boolean", *value);
  }
}

void Fields::choice(const char* key, std::string& out, std::initializer_list<const char*> values, bool required) {
  const Json* value = find(key, required);
  if (value != nullptr && check_choice(*value, where_.at(key), faults_, values)) out = value->get<std::string>();
}

void Fields::choice(const char* key, std::optional<std::string>& out, std::initializer_list<const char*> values) {
  const Json* value = find(key, false);
  if (value == nullptr || value->is_null()) return;
  if (check_choice(*value, where_.at(key), faults_, values)) out = value->get<std::string>();
}

void Fields::not_empty(const char* key) {
  const Json* value = find(key, false);
  if (value != nullptr && value->is_object() && value->empty()) too_short(where_.at(key), "Dictionary", 0, 1, *value);
}

const Json* Fields::object(const char* key, bool required) {
  const Json* value = find(key, required);
  if (value == nullptr || value->is_object()) return value;
  faults_.add(where_.at(key), "input should be an object", *value);
  return nullptr;
}

const Json* Fields::array(const char* key, bool required) {
  const Json* value = find(key, required);
  if (value == nullptr || value->is_array()) return value;
  faults_.add(where_.at(key), "input should be a valid array", *value);
  return nullptr;
}

void Fields::too_short(const Place& place, const char* kind, std::size_t came, std::size_t needed, const Json& value) {
  std::string text = std::string(kind) + " should have at least " + std::to_string(needed) +
                     " item after validation, not " + std::to_string(came);
  text[0] = static_cast<char>(text[0] | 0x20);
  faults_.add(place, text, value);
}

void check_version(const Json& document, const std::string& name, const std::string& format, const std::string& is_no,
                   const std::string& how, const std::string& what) {
  const auto found = document.find("format");
  if (found == document.end() || !found->is_string() || found->get_ref<const std::string&>() != format)
    throw BundleError(name + " is no " + is_no + ": its format is not '" + format + "'; " + how);
  const auto version = document.find("version");
  const bool is_integer = version != document.end() && version->is_number_integer();
  if (!is_integer || (!version->is_number_unsigned() && version->get<std::int64_t>() < 1)) {
    const std::string came = version == document.end() ? "None" : value_text(*version);
    throw BundleError(name + ": version: expected " + std::to_string(kVersion) + ", but got " + came);
  }
  if (version->is_number_unsigned() || version->get<std::int64_t>() > kVersion)
    throw BundleError(name + ": this " + what + " is version " + value_text(*version) +
                      "; this dit-deploy reads version " + std::to_string(kVersion) + ": upgrade dit-deploy");
}

bool is_plain_path(std::string_view path) {
  if (path.size() > 240) return false;
  bool begins = true;  // a segment begins here
  for (const char one : path) {
    const bool letter = is_digit(one) || is_lower(static_cast<char>(one | 0x20)) || one == '_';
    if (one == '/') {
      if (begins) return false;
      begins = true;
    } else {
      if (!letter && (begins || (one != '.' && one != '-'))) return false;
      begins = false;
    }
  }
  return !begins;
}

std::string not_plain(std::string_view path) {
  return "path " + quoted(path, 500) + " is not a plain relative path inside the bundle (letters, digits, . _ - and /)";
}

std::string list_text(const std::vector<std::string>& items) {
  std::vector<std::string> parts;
  for (const std::string& item : items) parts.push_back(quoted(item));
  return "[" + join(parts) + "]";
}

}  // namespace dit_deploy::bundle
