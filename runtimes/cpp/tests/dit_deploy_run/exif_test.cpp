// Orientation in crafted files, and all eight ways to turn a picture.
#include "dit_deploy_run/exif.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

using dit_deploy::Picture;
using dit_deploy::run::orientation;
using dit_deploy::run::turned_upright;

namespace {

std::string bytes(const std::vector<int>& values) {
  std::string text;
  for (const int value : values) text += static_cast<char>(value);
  return text;
}

// A directory of one entry, the orientation.
std::string tiff(int value, bool big_endian) {
  return big_endian ? bytes({'M', 'M', 0, 42, 0, 0, 0, 8, 0, 1, 1, 0x12, 0, 3, 0, 0, 0, 1, 0, value, 0, 0})
                    : bytes({'I', 'I', 42, 0, 8, 0, 0, 0, 1, 0, 0x12, 1, 3, 0, 1, 0, 0, 0, value, 0, 0, 0});
}

std::string jpeg(const std::string& block) {
  const std::string exif = bytes({'E', 'x', 'i', 'f', 0, 0}) + block;
  const std::string comment = bytes({0xFF, 0xFE, 0, 5, 'a', 'b', 'c'});
  return bytes({0xFF, 0xD8}) + comment + bytes({0xFF, 0xE1, 0, static_cast<int>(exif.size()) + 2}) + exif +
         bytes({0xFF, 0xDA, 0, 2});
}

std::string png(const std::string& block) {
  return bytes({0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'}) + bytes({0, 0, 0, static_cast<int>(block.size())}) +
         "eXIf" + block + "sums";
}

}  // namespace

TEST_CASE("the orientation is found in both formats and both byte orders") {
  for (int value = 1; value <= 8; ++value) {
    for (const bool big_endian : {false, true}) {
      CHECK(orientation(jpeg(tiff(value, big_endian))) == value);
      CHECK(orientation(png(tiff(value, big_endian))) == value);
    }
  }
}

TEST_CASE("what says nothing, or is damaged at any byte, is upright and read within its bounds") {
  CHECK(orientation("") == 1);
  CHECK(orientation("GIF89a") == 1);
  CHECK(orientation(jpeg(tiff(9, true))) == 1);
  CHECK(orientation(jpeg(tiff(0, false))) == 1);
  for (const std::string& whole : {jpeg(tiff(6, true)), png(tiff(6, false))}) {
    for (std::size_t size = 0; size < whole.size(); ++size) {
      CHECK(orientation(whole.substr(0, size)) >= 1);
      std::string damaged = whole;
      damaged[size] = '\xFF';
      CHECK(orientation(damaged) >= 1);
    }
  }
}

TEST_CASE("a picture is turned as Exif says") {
  // Two rows of three.
  const Picture picture{2, 3, 1, {1, 2, 3, 4, 5, 6}};
  const std::vector<std::vector<std::uint8_t>> expected = {
      {1, 2, 3, 4, 5, 6}, {3, 2, 1, 6, 5, 4}, {6, 5, 4, 3, 2, 1}, {4, 5, 6, 1, 2, 3},
      {1, 4, 2, 5, 3, 6}, {4, 1, 5, 2, 6, 3}, {6, 3, 5, 2, 4, 1}, {3, 6, 2, 5, 1, 4},
  };
  for (int value = 1; value <= 8; ++value) {
    const Picture turned = turned_upright(picture, value);
    CHECK(turned.pixels == expected[static_cast<std::size_t>(value - 1)]);
    CHECK(turned.height == (value >= 5 ? 3 : 2));
    CHECK(turned.width == (value >= 5 ? 2 : 3));
  }
}

TEST_CASE("channels stay together") {
  CHECK(turned_upright({1, 2, 3, {1, 2, 3, 4, 5, 6}}, 2).pixels == std::vector<std::uint8_t>{4, 5, 6, 1, 2, 3});
}
