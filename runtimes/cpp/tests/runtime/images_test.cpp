#include "runtime/images.h"

#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

namespace dit_deploy::runtime {
namespace {

std::vector<std::uint8_t> decoded(const std::string& base64) {
  const std::string alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::vector<std::uint8_t> bytes;
  std::uint32_t bits = 0;
  int count = 0;
  for (const char one : base64) {
    if (one == '=') break;
    bits = bits << 6 | static_cast<std::uint32_t>(alphabet.find(one));
    count += 6;
    if (count >= 8) {
      count -= 8;
      bytes.push_back(static_cast<std::uint8_t>(bits >> count));
    }
  }
  return bytes;
}

Picture picture(std::int64_t height, std::int64_t width, std::int64_t channels) {
  return {height, width, channels, std::vector<std::uint8_t>(static_cast<std::size_t>(height * width * channels), 7)};
}

std::string refused(const std::vector<Picture>& pictures, std::int64_t multiple = 8) {
  try {
    read_images(pictures, multiple, 3, std::nullopt, std::nullopt);
  } catch (const InputError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("pictures become the values that Pillow makes of them") {
  std::ifstream file(DIT_DEPLOY_TEST_DATA "/golden/images.json");
  REQUIRE(file);
  const auto document = nlohmann::json::parse(file);
  REQUIRE_MESSAGE(document.at("format") == 1, "run " << document.at("script"));
  CHECK(document.at("cases").size() == 64);
  for (const auto& one : document.at("cases")) {
    const Picture given{one["size"][0], one["size"][1], one["channels"], decoded(one["pixels"])};
    const auto made = read_images({given}, 8, one["made_channels"], one["wanted"][0].get<std::int64_t>(),
                                  one["wanted"][1].get<std::int64_t>());
    const auto expected = decoded(one["made"]);
    REQUIRE(made.values.size() == expected.size());
    std::size_t different = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      different += made.values[i] != static_cast<float>(expected[i]) / 255.0f;
    }
    CHECK_MESSAGE(different == 0, one["size"] << " of " << one["channels"] << " channels to " << one["wanted"]);
  }
}

TEST_CASE("a vision encoder sees the middle of what Pillow makes of a picture by its bicubic filter") {
  std::ifstream file(DIT_DEPLOY_TEST_DATA "/golden/images.json");
  const auto document = nlohmann::json::parse(file);
  CHECK(document.at("crops").size() == 24);
  for (const auto& one : document.at("crops")) {
    const Picture given{one["size"][0], one["size"][1], 3, decoded(one["pixels"])};
    const std::vector<float> made = middle_of(given, one["wanted"]);
    const auto expected = decoded(one["made"]);
    REQUIRE(made.size() == expected.size());
    std::size_t different = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) different += made[i] != static_cast<float>(expected[i]) / 255.0f;
    CHECK_MESSAGE(different == 0, one["size"] << " to " << one["wanted"]);
  }
}

TEST_CASE("without a wish, the size is the first picture's own, rounded down") {
  const auto made = read_images({picture(31, 17, 3), picture(8, 8, 4)}, 8, 3, std::nullopt, std::nullopt);
  CHECK(made.shape == Shape{2, 3, 24, 16});
  CHECK(made.values.size() == 2 * 3 * 24 * 16);
}

TEST_CASE("pictures that are none are refused in one line") {
  CHECK(refused({picture(7, 30, 3)}) == "image: 30×7 pixels came, at least 8×8 expected");
  CHECK(refused({picture(8, 8, 5)}).find("image: 5 channels came") == 0);
  CHECK(refused({picture(0, 8, 3)}).find("image: a picture of 8×0 pixels came") == 0);
  CHECK(refused({Picture{1ll << 40, 1ll << 40, 3, {}}}).find("image: a picture of") == 0);
  CHECK(refused({Picture{8, 8, 3, {1, 2}}}) ==
        "image: 2 bytes of pixels came, expected 192 for 8×8 pixels of 3 channels");
}

TEST_CASE("a picture is rounded as numpy rounds, and nothing wraps") {
  const float planes[] = {0.5f / 255.0f, 1.5f / 255.0f, 1.0f, 2.0f, -1.0f, 0.0f};
  const Picture made = to_picture(planes, 1, 2, 3);
  CHECK(made.pixels ==
        std::vector<std::uint8_t>{static_cast<std::uint8_t>(std::nearbyint(planes[0] * 255.0f)), 2, 255, 255, 0, 0});
}

}  // namespace dit_deploy::runtime
