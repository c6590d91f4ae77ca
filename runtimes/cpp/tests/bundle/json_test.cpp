#include "bundle/json.h"

#include <cmath>

#include "bundle/fixtures.h"

namespace dit_deploy::bundle::testing {
namespace {

std::string refused(const std::string& text, bool infinity = false) {
  return refusal([&] { read_json(text, "x.json", infinity); });
}

TEST_CASE("values keep their types") {
  const nlohmann::json value =
      read_json(R"( {"a": [1, -2, 1.0, 1e2, true, null, "é\u00e9\ud83d\ude00\n"], "b": {}} )", "x");
  CHECK(value["a"][0].is_number_integer());
  CHECK(value["a"][1] == -2);
  CHECK(value["a"][2].is_number_float());
  CHECK(value["a"][3] == 100.0);
  CHECK(value["a"][6] == "éé😀\n");
  CHECK(read_json("9223372036854775807", "x").is_number_integer());
  CHECK(read_json("18446744073709551615", "x").is_number_unsigned());
  CHECK(read_json("18446744073709551616", "x").is_number_float());
  CHECK(read_json("5e-324", "x").get<double>() > 0);
  for (const char* small : {"1e-400", "-0.0e999999", "0.000e99999999999999999999", "1e-99999999999999999999"})
    CHECK(read_json(small, "x").get<double>() == 0);
  CHECK(read_json("0." + std::string(400, '0') + "1e401", "x").get<double>() == doctest::Approx(1));
}

TEST_CASE("objects in the document's order") {
  const auto value = read_ordered_object(R"({"b": 1, "a": 2})", "x");
  CHECK(value.begin().key() == "b");
  CHECK(value_text(value) == "{'b': 1, 'a': 2}");
}

TEST_CASE("infinity where it is allowed") {
  CHECK(read_json("[Infinity, -Infinity]", "x", true)[1].get<double>() == -INFINITY);
  CHECK(has(refused("[Infinity]"), "Infinity is not a JSON number"));
  CHECK(has(refused("[NaN]", true), "NaN is not a JSON number"));
}

TEST_CASE("what is not strict JSON") {
  const std::pair<std::string, const char*> faults[] = {
      {"", "x.json: expected strict JSON, but Expecting value: line 1 column 1 (char 0)"},
      {"{\n\"ä\": x}", "Expecting value: line 2 column 6 (char 7)"},
      {"[1,]", "Expecting value: line 1 column 4"},
      {"{\"a\": 1,}", "Expecting property name"},
      {"[1 2]", "Expecting ',' delimiter"},
      {"{\"a\" 1}", "Expecting ':' delimiter"},
      {"\"abc", "Unterminated string"},
      {"\"\t\"", "Invalid control character"},
      {"\"\\x\"", "Invalid \\escape"},
      {"\"\\u12\"", "Invalid \\uXXXX escape: line 1 column 3"},
      {"\"\\ud800\"", "a lone surrogate"},
      {"\"\\ud800\\u0041\"", "a lone surrogate"},
      {"\"\\udc00\"", "a lone surrogate"},
      {"\"\\", "Unterminated string"},
      {"1 2", "Extra data"},
      {"01", "Extra data"},
      {"1.", "Extra data"},
      {"-", "Expecting value"},
      {"\xef\xbb\xbf{}", "byte order mark"},
      {"1e309", "the number 1e309 is too large"},
      {"-" + std::string(400, '9'), "is too large"},
      {"{\"a\": 1, \"a\": 1}", "the key 'a' occurs twice in one object"},
      {"\"\xff\"", "expected UTF-8 text, but byte 1 is not (invalid start byte)"},
      {"\"\xe2\x82", "byte 1 is not (unexpected end of data)"},
      {"\"\xe2\x28\xa1\"", "byte 1 is not (invalid continuation byte)"},
      {std::string(100'000, '['), "nested too deeply"},
      {"{\"a\":" + std::string(300, '['), "nested too deeply"},
  };
  for (const auto& [text, message] : faults) CHECK(has(refused(text), message));
  for (const char* text : {"[1]", "null", "\"a\"", "1"})
    CHECK(has(refusal([&] { read_object(text, "x"); }), "x: expected a JSON object, but it holds a "));
}

TEST_CASE("many keys take no longer than few") {
  std::string text = "{";
  for (int index = 0; index < 100'000; ++index) text += "\"" + std::to_string(index) + "\":0,";
  CHECK(read_ordered_object(text + "\"a\":[]}", "x").size() == 100'001);
}

TEST_CASE("values as Python shows them") {
  const auto text = [](const char* json, std::size_t limit = 60) {
    return value_text(nlohmann::ordered_json(read_json(json, "x")), limit);
  };
  CHECK(text(R"([true, null, 1.0, "a'b", {"k": []}])") == R"([True, None, 1.0, "a'b", {'k': []}])");
  CHECK(text("\"xxxxxxxxxx\"", 5) == "'xxx…");
}

}  // namespace
}  // namespace dit_deploy::bundle::testing
