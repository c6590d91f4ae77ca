#include "safetensors.h"

#include <doctest/doctest.h>

using dit_deploy::tests::parse_safetensors;

namespace {

std::vector<std::byte> file(const std::string& header, std::size_t data, std::uint64_t length) {
  std::vector<std::byte> bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<std::byte>(length >> (8 * i) & 0xFF));
  for (const char character : header) bytes.push_back(static_cast<std::byte>(character));
  for (std::size_t i = 0; i < data; ++i) bytes.push_back(static_cast<std::byte>(i));
  return bytes;
}

std::vector<std::byte> file(const std::string& header, std::size_t data) { return file(header, data, header.size()); }

}  // namespace

TEST_CASE("safetensors: a file with one tensor") {
  const auto read =
      parse_safetensors(file(R"({"__metadata__":{"a":"b"},"x":{"dtype":"U8","shape":[1,3],"data_offsets":[1,4]}})", 4));
  CHECK(read.metadata.at("a") == "b");
  CHECK(read.at("x").shape == std::vector<std::int64_t>{1, 3});
  CHECK(read.at("x").values<std::uint8_t>() == std::vector<std::uint8_t>{1, 2, 3});
  CHECK_THROWS(read.at("x").values<float>());
  CHECK_THROWS(read.at("y"));
}

TEST_CASE("safetensors: what lies outside the file is refused") {
  CHECK_THROWS(parse_safetensors({}));
  CHECK_THROWS(parse_safetensors(file("{}", 0, 3)));
  CHECK_THROWS(parse_safetensors(file("{}", 0, ~std::uint64_t{0})));
  CHECK_THROWS(parse_safetensors(file("{", 0)));
  const char* entries[] = {
      R"({"dtype":"F32","shape":[1],"data_offsets":[0,5]})",
      R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})",
      R"({"dtype":"F32","shape":[1],"data_offsets":[4,0]})",
      R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})",
      R"({"dtype":"X","shape":[1],"data_offsets":[0,4]})",
      R"({"dtype":"F32","shape":[1],"data_offsets":[0]})",
      R"({"dtype":"F32","shape":[4611686018427387904,8],"data_offsets":[0,0]})",
  };
  for (const char* entry : entries) {
    CAPTURE(entry);
    CHECK_THROWS(parse_safetensors(file(std::string(R"({"x":)") + entry + "}", 4)));
  }
}
