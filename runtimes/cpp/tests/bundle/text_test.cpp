#include "text.h"

#include <doctest/doctest.h>

#include <clocale>
#include <limits>

namespace dit_deploy {

TEST_CASE("one_line joins white space, escapes what a terminal does not show, and cuts characters") {
  CHECK(one_line("  a\n b\t\r\nc  ") == "a b c");
  CHECK(one_line(std::string_view("a\0b\x1b[31m", 8)) == "a\\x00b\\x1b[31m");
  CHECK(one_line("\xc2\xa0x\xe2\x80\xa8y\xe2\x80\x8bz") == "x y\\u200bz");
  CHECK(one_line("\xff") == "\\udcff");
  CHECK(one_line("äöüß", 4) == "äöüß");
  CHECK(one_line("äöüßä", 4) == "äöü…");
  CHECK(one_line(std::string(1 << 20, 'x'), 3) == "xx…");
  CHECK(one_line("") == "");
}

TEST_CASE("quoted is Python's repr") {
  CHECK(quoted("a'b") == R"("a'b")");
  CHECK(quoted(R"(a'b"c)") == R"('a\'b"c')");
  CHECK(quoted("a\\b\n\t") == R"('a\\b\n\t')");
  std::string text = "é";
  CHECK(quoted(text) == "'é'");
}

TEST_CASE("numbers are written as Python writes them, whatever the locale") {
  const char* const before = std::setlocale(LC_ALL, nullptr);
  const std::string restore = before == nullptr ? "C" : before;
  std::setlocale(LC_ALL, "de_DE.UTF-8");
  CHECK(number_text(0.5) == "0.5");
  CHECK(number_text(1234567.0) == "1.23457e+06");
  CHECK(number_text(1000, 15) == "1000");
  CHECK(number_repr(1) == "1.0");
  CHECK(number_repr(-0.0) == "-0.0");
  CHECK(number_repr(1e16) == "1e+16");
  CHECK(number_repr(123456789012345680.0) == "1.2345678901234568e+17");
  CHECK(number_repr(0.0001) == "0.0001");
  CHECK(number_repr(1e-5) == "1e-05");
  CHECK(number_repr(std::numeric_limits<double>::infinity()) == "inf");
  std::setlocale(LC_ALL, restore.c_str());
}

TEST_CASE("sizes for people") {
  CHECK(human_size(999) == "999 B");
  CHECK(human_size(1500) == "1.5 kB");
  CHECK(human_size(999'950) == "1.0 MB");
  CHECK(human_size(std::uint64_t{16} << 20) == "16.8 MB");
  CHECK(human_size(std::numeric_limits<std::uint64_t>::max()) == "18446744.1 TB");
}

TEST_CASE("characters of UTF-8, and bytes that are none") {
  const std::string text = "a\u00e9\u20ac\U0001f600";
  std::string again;
  for (std::size_t at = 0; at < text.size();) {
    const Character one = character_at(text, at);
    CHECK(one.valid);
    append_character(again, one.code);
    at += one.length;
  }
  CHECK(again == text);
  for (const char* bad :
       {"\xff", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\x80", "\xf5\x80\x80\x80"}) {
    CHECK_FALSE(character_at(bad, 0).valid);
    CHECK(character_at(bad, 0).length == 1);
  }
}

}  // namespace dit_deploy
