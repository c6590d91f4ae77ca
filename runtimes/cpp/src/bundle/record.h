// From JSON to the fields of a closed record: a key that is not asked for is a fault, "1" and true are no numbers.
// Messages are those of pydantic, which reads the same documents in Python; dit_deploy/bundle/_parse.py.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bundle/manifest.h"

namespace dit_deploy::bundle {

using Json = nlohmann::ordered_json;

// Where a value stands in a document. Made on the stack on the way down, written out only for a message.
struct Place {
  const Place* parent = nullptr;
  std::string_view key;
  std::int64_t index = -1;

  Place at(std::string_view name) const { return {this, name, -1}; }
  Place at(std::size_t number) const { return {this, {}, static_cast<std::int64_t>(number)}; }
  std::string text() const;  // "latents.channels"; empty for the document
};

// The faults of one document: the first one, and how many there are.
class Faults {
 public:
  void add(const Place& where, const std::string& message);
  // Says what came, too. A `minor` fault counts only where there is no other.
  void add(const Place& where, const std::string& message, const Json& came, bool minor = false);
  std::size_t count() const { return count_ + minor_; }
  // Throws the first fault as a BundleError; `root` is what a fault of the whole document is said of.
  void raise(const std::string& name, const std::string& root) const;

 private:
  std::size_t count_ = 0, minor_ = 0;
  std::string where_, message_, minor_where_, minor_message_;
};

// What a string must be: at most `longest` characters that `fits` takes; `pattern` says it in the message.
struct Pattern {
  const char* text;
  bool (*fits)(std::string_view);
  std::size_t longest = 0;  // 0: any length
};
extern const Pattern kName, kSha256;

// The fields of one object, asked for in the order in which a record declares them.
class Fields {
 public:
  // Adds a fault where `value` is no object; then nothing is found and nothing is missing.
  Fields(const Json& value, const Place& where, Faults& faults);

  // nullptr where the key is missing; a fault where it is `required`.
  const Json* find(std::string_view key, bool required);
  // Adds a fault for every key that was not asked for.
  void finish();

  // Each reads a field into `out`, and leaves it as it is where the key is missing or has a fault.
  void string(const char* key, std::string& out, bool required = true);
  void string(const char* key, std::string& out, const Pattern& pattern);
  void string(const char* key, std::optional<std::string>& out, const Pattern* pattern = nullptr);
  void integer(const char* key, std::int64_t& out, std::int64_t minimum, bool required = true);
  void integer(const char* key, std::optional<std::int64_t>& out, std::int64_t minimum);
  void number(const char* key, double& out);
  void number(const char* key, std::optional<double>& out);
  void boolean(const char* key, bool& out);
  void choice(const char* key, std::string& out, std::initializer_list<const char*> values, bool required = true);
  void choice(const char* key, std::optional<std::string>& out, std::initializer_list<const char*> values);

  // Calls read(key, value, place) for each item of an object in the field.
  template <typename Read>
  void each(const char* key, bool required, Read&& read) {
    const Json* value = object(key, required);
    if (value == nullptr) return;
    const Place place = where_.at(key);
    for (auto item = value->begin(); item != value->end(); ++item) read(item.key(), *item, place.at(item.key()));
  }
  // Calls read(value, place) for each item of a list in the field; `shortest` are needed without a fault.
  template <typename Read>
  void list(const char* key, bool required, std::size_t shortest, Read&& read) {
    const Json* value = array(key, required);
    if (value == nullptr) return;
    const Place place = where_.at(key);
    std::size_t good = 0;
    for (std::size_t index = 0; index < value->size(); ++index) {
      const std::size_t before = faults_.count();
      read((*value)[index], place.at(index));
      if (faults_.count() == before) ++good;
    }
    if (good < shortest) too_short(place, "Tuple", good, shortest, *value);
  }
  // Adds a fault where the object in the field has no items.
  void not_empty(const char* key);

  const Place& where() const { return where_; }

 private:
  const Json* object(const char* key, bool required);
  const Json* array(const char* key, bool required);
  void too_short(const Place& place, const char* kind, std::size_t came, std::size_t needed, const Json& value);

  const Json* value_ = nullptr;  // nullptr: no object
  Place where_;
  Faults& faults_;
  std::vector<std::string_view> asked_;
};

// Checks of single values; each returns whether it is good, and adds a fault where it is not.
bool check_string(const Json& value, const Place& where, Faults& faults, const Pattern* pattern = nullptr);
bool check_integer(const Json& value, const Place& where, Faults& faults, std::int64_t minimum);
bool check_number(const Json& value, const Place& where, Faults& faults);
bool check_choice(const Json& value, const Place& where, Faults& faults, std::initializer_list<const char*> values);
void check_key(const std::string& key, const Place& where, Faults& faults, const Pattern& pattern);

// Returns `document`'s format and version checked; throws BundleError. `what` is "bundle" or "engine", `is_no` what a
// document of another format is not, and `how` what to do.
void check_version(const Json& document, const std::string& name, const std::string& format, const std::string& is_no,
                   const std::string& how, const std::string& what);

// Whether `path` is a plain relative POSIX path that stays below its root; `not_plain` says that one is not.
bool is_plain_path(std::string_view path);
std::string not_plain(std::string_view path);

// {"size": …, "sha256": …}
FileRecord read_file_record(const Json& value, const Place& where, Faults& faults);

// "['a', 'b']" as Python writes a list of strings.
std::string list_text(const std::vector<std::string>& items);

}  // namespace dit_deploy::bundle
