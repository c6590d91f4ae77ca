// Regular expressions of tokenizers: what matches, what is refused, and that none runs for ever.
#include "tokenizer/regex.h"

#include <doctest/doctest.h>

#include "dit_deploy/errors.hpp"

using dit_deploy::BundleError;
using namespace dit_deploy::tokenizer;

namespace {

// All matches, with "|" between them.
std::string matches(const char* pattern, const std::string& utf8) {
  const Regex regex(pattern);
  const Text text = to_text(utf8);
  std::string found;
  std::size_t steps = Regex::budget(text);
  for (std::size_t at = 0; at <= text.size();) {
    const auto match = regex.search(text, at, steps);
    if (!match) break;
    const auto [first, last] = *match;
    if (!found.empty()) found += '|';
    found +=
        to_utf8({text.begin() + static_cast<std::ptrdiff_t>(first), text.begin() + static_cast<std::ptrdiff_t>(last)});
    at = last > first ? last : last + 1;
  }
  return found;
}

}  // namespace

TEST_CASE("regex: what tokenizers write") {
  CHECK(matches("a|bc|d", "xbcdab") == "bc|d|a");
  CHECK(matches("(?:ab)+", "ababxab") == "abab|ab");
  CHECK(matches("a{2}", "aaaaa") == "aa|aa");
  CHECK(matches("a{1,3}", "aaaaa") == "aaa|aa");
  CHECK(matches("a{2,}", "a aa aaa") == "aa|aaa");
  CHECK(matches("a+?", "aaa") == "a|a|a");
  CHECK(matches("a*?b", "aab") == "aab");
  CHECK(matches("a++ab|a", "aaab") == "a|a|a");
  CHECK(matches("(?>a+)b", "aaab") == "aaab");
  CHECK(matches("[^a-c\\]x]", "abcd]x-") == "d|-");
  CHECK(matches("[a\\-z]", "a-zb") == "a|-|z");
  CHECK(matches("\\p{Lu}\\p{Ll}*", "Äpfel Öl xY") == "Äpfel|Öl|Y");
  CHECK(matches("[^\\s\\p{L}\\p{N}]+", "a, (b)!! 3%") == ",|(|)!!|%");
  CHECK(matches("\\s+(?!\\S)|\\s+", "a   b  ") == "  | |  ");
  CHECK(matches("(?<=a)b|(?<!a)c", "abcac") == "b|c");
  CHECK(matches("(?i:'s|ß)x?", "it'S 'ſX ß") == "'S|'ſ|ß");
  CHECK(matches("(?i:[a-c])d", "AdBDd") == "Ad");
  CHECK(matches("^a|b$|\\Ac|d\\z", "a\nab\nd") == "a|a|b|d");
  CHECK(matches("\\bé", "é aé é") == "é|é");
  CHECK(matches("\\x{41}\\u0042\\x43\\.", "ABC.") == "ABC.");
  CHECK(matches(".", "a\nb") == "a|b");
  CHECK(matches("x*y|z", "xxxz") == "z");
  CHECK(matches("(a|b(c|d))e", "bde ae") == "bde|ae");
}

TEST_CASE("regex: what is not known is refused") {
  for (const char* pattern : {"(",           ")",      "a)",         "[",        "[a",
                              "[]",          "*",      "a**",        "(?:a?)*",  "(?P<x>a)",
                              "\\",          "\\q",    "\\p{Han}",   "\\pL",     "[a&&b]",
                              "[[:alpha:]]", "a{3,2}", "a{x}",       "a{99999}", "(?:(?:a{150}){150}){150}",
                              "(?<=a+)b",    "[b-a]",  "\\x{110000}"}) {
    CAPTURE(pattern);
    CHECK_THROWS_AS(Regex{pattern}, BundleError);
  }
  CHECK_THROWS_AS(Regex{std::string(1000, '(') + std::string(1000, ')')}, BundleError);
}

TEST_CASE("regex: none runs for ever") {
  CHECK_THROWS_WITH_AS(matches("(?:a+)+b", std::string(64, 'a')), doctest::Contains("too many steps"), BundleError);
  CHECK(matches("\\s+(?!\\S)|\\s+", std::string(100'000, ' ')).size() == 100'000);
}
