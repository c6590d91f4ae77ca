#include "bundle/json.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <system_error>
#include <unordered_set>
#include <utility>

#include "dit_deploy/errors.hpp"
#include "text.h"

namespace dit_deploy::bundle {
namespace {

constexpr int kDepth = 201;  // as deep as pydantic reads

bool is_digit(char one) { return one >= '0' && one <= '9'; }

// Where the first byte that is no UTF-8 is, and why, in Python's words.
void check_utf8(std::string_view data, const std::string& name) {
  for (std::size_t at = 0; at < data.size();) {
    const Character one = character_at(data, at);
    if (one.valid) {
      at += one.length;
      continue;
    }
    const char* reason = "invalid start byte";
    if (one.code >= 0xc2 && one.code <= 0xf4) {
      const std::size_t length = one.code >= 0xf0 ? 4 : one.code >= 0xe0 ? 3 : 2;
      std::size_t good = 1;
      while (good < length && at + good < data.size() && (static_cast<unsigned char>(data[at + good]) & 0xc0U) == 0x80)
        ++good;
      reason = at + good == data.size() && good < length ? "unexpected end of data" : "invalid continuation byte";
    }
    throw BundleError(name + ": expected UTF-8 text, but byte " + std::to_string(at) + " is not (" + reason + ")");
  }
}

// What a double holds of a number's text: inf where it is too large, 0 where it is too small.
double to_double(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc::result_out_of_range) return value;
  // from_chars does not say whether it is too large or too small: the first digit's power of ten does.
  std::int64_t power = 0, before = 0;
  bool point = false, seen = false;
  std::size_t at = text[0] == '-' ? 1 : 0;
  for (; at < text.size() && text[at] != 'e' && text[at] != 'E'; ++at) {
    if (text[at] == '.') {
      point = true;
    } else {
      seen = seen || text[at] != '0';
      if (seen && !point) ++before;
      if (!seen && point) --before;
    }
  }
  if (at < text.size()) {
    const char* digits = text.data() + at + 1;
    if (*digits == '+') ++digits;
    if (std::from_chars(digits, text.data() + text.size(), power).ec == std::errc::result_out_of_range)
      power =
          *digits == '-' ? std::numeric_limits<std::int64_t>::min() / 2 : std::numeric_limits<std::int64_t>::max() / 2;
  }
  const double size = before + power > 0 ? std::numeric_limits<double>::infinity() : 0.0;
  return text[0] == '-' ? -size : size;
}

template <typename Json>
class Parser {
 public:
  Parser(std::string_view data, const std::string& name, bool infinity)
      : data_(data), name_(name), infinity_(infinity) {}

  Json document() {
    if (data_.substr(0, 3) == "\xef\xbb\xbf") fail("a byte order mark came", 0);
    skip_space();
    Json value = parse_value(0);
    skip_space();
    if (at_ < data_.size()) fail("Extra data", at_);
    return value;
  }

 private:
  // Says where a fault is as Python does: in characters, not bytes.
  [[noreturn]] void fail(const std::string& what, std::size_t position) const {
    std::size_t line = 1, column = 1, character = 0;
    for (std::size_t at = 0; at < position; ++at) {
      if ((static_cast<unsigned char>(data_[at]) & 0xc0U) == 0x80) continue;
      ++character;
      ++column;
      if (data_[at] == '\n') {
        ++line;
        column = 1;
      }
    }
    refuse(what + ": line " + std::to_string(line) + " column " + std::to_string(column) + " (char " +
           std::to_string(character) + ")");
  }

  [[noreturn]] void refuse(const std::string& why) const {
    throw BundleError(name_ + ": expected strict JSON, but " + why);
  }

  bool next_is(char one) const { return at_ < data_.size() && data_[at_] == one; }

  void skip_space() {
    while (next_is(' ') || next_is('\n') || next_is('\t') || next_is('\r')) ++at_;
  }

  bool take(std::string_view word) {
    if (data_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  Json parse_value(int depth) {
    if (next_is('"')) return Json(parse_string());
    if (next_is('{')) return parse_object(deeper(depth));
    if (next_is('[')) return parse_array(deeper(depth));
    if (take("true")) return Json(true);
    if (take("false")) return Json(false);
    if (take("null")) return Json(nullptr);
    for (const char* word : {"NaN", "Infinity", "-Infinity"}) {
      if (!take(word)) continue;
      if (!infinity_ || word[0] == 'N') refuse(std::string(word) + " is not a JSON number");
      const double value = std::numeric_limits<double>::infinity();
      return Json(word[0] == '-' ? -value : value);
    }
    return parse_number();
  }

  int deeper(int depth) const {
    if (depth >= kDepth) throw BundleError(name_ + ": objects or lists are nested too deeply");
    return depth + 1;
  }

  Json parse_object(int depth) {
    Json value = Json::object();
    auto& object = value.template get_ref<typename Json::object_t&>();
    std::unordered_set<std::string> keys;  // an ordered object itself would be searched from its start for each key
    ++at_;
    skip_space();
    if (next_is('}')) {
      ++at_;
      return value;
    }
    while (true) {
      if (!next_is('"')) fail("Expecting property name enclosed in double quotes", at_);
      std::string key = parse_string();
      if (!keys.insert(key).second) refuse("the key " + quoted(key) + " occurs twice in one object");
      skip_space();
      if (!next_is(':')) fail("Expecting ':' delimiter", at_);
      ++at_;
      skip_space();
      append(object, std::move(key), parse_value(depth));
      skip_space();
      if (next_is('}')) break;
      if (!next_is(',')) fail("Expecting ',' delimiter", at_);
      ++at_;
      skip_space();
    }
    ++at_;
    return value;
  }

  static void append(nlohmann::json::object_t& object, std::string&& key, Json&& value) {
    object.emplace(std::move(key), std::move(value));
  }
  static void append(nlohmann::ordered_json::object_t& object, std::string&& key, Json&& value) {
    object.emplace_back(std::move(key), std::move(value));
  }

  Json parse_array(int depth) {
    Json value = Json::array();
    auto& array = value.template get_ref<typename Json::array_t&>();
    ++at_;
    skip_space();
    if (next_is(']')) {
      ++at_;
      return value;
    }
    while (true) {
      array.push_back(parse_value(depth));
      skip_space();
      if (next_is(']')) break;
      if (!next_is(',')) fail("Expecting ',' delimiter", at_);
      ++at_;
      skip_space();
    }
    ++at_;
    return value;
  }

  std::string parse_string() {
    const std::size_t begin = at_++;
    std::string text;
    while (true) {
      const std::size_t plain = at_;
      while (at_ < data_.size() && data_[at_] != '"' && data_[at_] != '\\' &&
             static_cast<unsigned char>(data_[at_]) >= 0x20)
        ++at_;
      text += data_.substr(plain, at_ - plain);
      if (at_ >= data_.size()) fail("Unterminated string starting at", begin);
      if (data_[at_] == '"') break;
      if (data_[at_] != '\\') fail("Invalid control character at", at_);
      parse_escape(text, begin);
    }
    ++at_;
    return text;
  }

  void parse_escape(std::string& text, std::size_t begin) {
    const std::size_t start = at_++;
    if (at_ >= data_.size()) fail("Unterminated string starting at", begin);
    constexpr std::string_view kEscapes = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
    const std::size_t found = kEscapes.find(data_[at_]);
    if (found != std::string_view::npos) {
      text += kMeanings[found];
      ++at_;
      return;
    }
    if (data_[at_] != 'u') fail("Invalid \\escape", start);
    char32_t code = parse_hex();
    if (code >= 0xd800 && code <= 0xdbff && data_.substr(at_, 2) == "\\u") {
      ++at_;
      const char32_t low = parse_hex();
      if (low < 0xdc00 || low > 0xdfff) fail("a lone surrogate came", start);
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    } else if (code >= 0xd800 && code <= 0xdfff) {
      fail("a lone surrogate came", start);
    }
    append_character(text, code);
  }

  // Reads "u" and four digits.
  char32_t parse_hex() {
    const std::size_t start = ++at_;
    char32_t code = 0;
    for (; at_ < start + 4; ++at_) {
      const char one = at_ < data_.size() ? data_[at_] : ' ';
      const char lower = static_cast<char>(one | 0x20);
      if (is_digit(one)) {
        code = code * 16 + static_cast<char32_t>(one - '0');
      } else if (lower >= 'a' && lower <= 'f') {
        code = code * 16 + static_cast<char32_t>(lower - 'a' + 10);
      } else {
        fail("Invalid \\uXXXX escape", start - 1);
      }
    }
    return code;
  }

  void skip_digits() {
    while (at_ < data_.size() && is_digit(data_[at_])) ++at_;
  }

  Json parse_number() {
    const std::size_t start = at_;
    if (next_is('-')) ++at_;
    if (at_ >= data_.size() || !is_digit(data_[at_])) fail("Expecting value", start);
    if (next_is('0')) {
      ++at_;
    } else {
      skip_digits();
    }
    bool integer = true;
    // A point or an exponent without digits is what follows the number, and refused there.
    if (next_is('.') && at_ + 1 < data_.size() && is_digit(data_[at_ + 1])) {
      integer = false;
      ++at_;
      skip_digits();
    }
    if (next_is('e') || next_is('E')) {
      std::size_t digits = at_ + 1;
      if (digits < data_.size() && (data_[digits] == '+' || data_[digits] == '-')) ++digits;
      if (digits < data_.size() && is_digit(data_[digits])) {
        integer = false;
        at_ = digits;
        skip_digits();
      }
    }
    const std::string_view text = data_.substr(start, at_ - start);
    return integer ? to_integer(text) : to_float(text);
  }

  Json to_integer(std::string_view text) const {
    std::int64_t value = 0;
    const char* const end = text.data() + text.size();
    if (std::from_chars(text.data(), end, value).ec == std::errc()) return Json(value);
    std::uint64_t large = 0;
    if (text[0] != '-' && std::from_chars(text.data(), end, large).ec == std::errc()) return Json(large);
    return to_float(text);
  }

  Json to_float(std::string_view text) const {
    const double value = to_double(text);
    if (std::isinf(value)) refuse("the number " + std::string(text.substr(0, 40)) + " is too large");
    return Json(value);
  }

  std::string_view data_;
  const std::string& name_;
  bool infinity_;
  std::size_t at_ = 0;
};

const char* type_name(const nlohmann::json& value) {
  if (value.is_null()) return "NoneType";
  if (value.is_boolean()) return "bool";
  if (value.is_string()) return "str";
  if (value.is_array()) return "list";
  return value.is_number_float() ? "float" : "int";
}

template <typename Json>
Json parse_object(std::string_view data, const std::string& name, bool infinity) {
  check_utf8(data, name);
  Json value = Parser<Json>(data, name, infinity).document();
  if (!value.is_object())
    throw BundleError(name + ": expected a JSON object, but it holds a " + type_name(nlohmann::json(value)));
  return value;
}

// Adds to `out` until it holds `enough` bytes: what is cut away later need not be written.
void write(std::string& out, const nlohmann::ordered_json& value, std::size_t enough) {
  if (out.size() > enough) return;
  if (value.is_null()) {
    out += "None";
  } else if (value.is_boolean()) {
    out += value.get<bool>() ? "True" : "False";
  } else if (value.is_number_float()) {
    out += number_repr(value.get<double>());
  } else if (value.is_number_unsigned()) {
    out += std::to_string(value.get<std::uint64_t>());
  } else if (value.is_number_integer()) {
    out += std::to_string(value.get<std::int64_t>());
  } else if (value.is_string()) {
    out += quoted(std::string_view(value.get_ref<const std::string&>()).substr(0, enough), kNoLimit);
  } else {
    const bool object = value.is_object();
    out += object ? '{' : '[';
    bool first = true;
    for (auto item = value.begin(); item != value.end() && out.size() <= enough; ++item) {
      if (!first) out += ", ";
      first = false;
      if (object) out += quoted(std::string_view(item.key()).substr(0, enough), kNoLimit) + ": ";
      write(out, *item, enough);
    }
    out += object ? '}' : ']';
  }
}

}  // namespace

nlohmann::json read_json(std::string_view data, const std::string& name, bool infinity) {
  check_utf8(data, name);
  return Parser<nlohmann::json>(data, name, infinity).document();
}

nlohmann::json read_object(std::string_view data, const std::string& name, bool infinity) {
  return parse_object<nlohmann::json>(data, name, infinity);
}

nlohmann::ordered_json read_ordered_object(std::string_view data, const std::string& name) {
  return parse_object<nlohmann::ordered_json>(data, name, false);
}

std::string value_text(const nlohmann::ordered_json& value, std::size_t limit) {
  std::string text;
  write(text, value, 16 * limit);
  return one_line(text, limit);
}

}  // namespace dit_deploy::bundle
