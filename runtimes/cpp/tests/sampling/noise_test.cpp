// Noise against torch's.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "dit_deploy/errors.hpp"
#include "sampling/golden_file.h"
#include "sampling/noise.h"

using namespace dit_deploy;
using namespace dit_deploy::tests;
using sampling::Generator;
using sampling::NoiseSource;

TEST_CASE("noise is torch.randn's") {
  constexpr double kTolerance = 1e-6;
  const nlohmann::json golden = read_golden("noise.json");
  double largest = 0;
  for (const nlohmann::json& run : golden.at("runs")) {
    NoiseSource source(run.at("seeds").get<std::vector<std::uint64_t>>());
    for (const nlohmann::json& expected : run.at("draws")) {
      INFO("seeds ", run.at("seeds").dump(), ", shape ", expected.at("shape").dump());
      const auto shape = expected.at("shape").get<std::vector<std::size_t>>();
      std::size_t each = 1;
      for (std::size_t axis = 1; axis < shape.size(); ++axis) each *= shape[axis];
      std::vector<float> values(shape[0] * each);
      source.draw(values.data(), shape[0], each);
      for (std::size_t index = 0; index < expected.at("kept").size(); ++index) {
        const auto place = expected.at("kept").at(index).get<std::size_t>();
        const double difference =
            std::fabs(static_cast<double>(values.at(place)) - expected.at("values").at(index).get<double>());
        largest = std::fmax(largest, difference);
        CHECK_MESSAGE(difference <= kTolerance, "element ", place);
      }
    }
  }
  MESSAGE("largest difference from torch: ", largest);
}

TEST_CASE("noise has the bits that it has in Python, and on every machine") {
  std::vector<float> values(100'003);
  Generator(42).draw(values.data(), values.size());
  std::uint32_t crc = ~0U;  // CRC-32 of the bytes, least first; tests/sampling/test_noise.py has the same number
  for (const float value : values) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    for (int bit = 0; bit < 32; ++bit) crc = crc >> 1 ^ (((crc ^ bits >> bit) & 1) != 0 ? 0xEDB88320U : 0U);
  }
  CHECK(~crc == 0xB56A7FEDU);
}

TEST_CASE("a generator does not depend on how its stream is cut into blocks of 16") {
  Generator whole(11), parts(11);
  std::vector<float> once(4096), more(4096);
  whole.draw(once.data(), once.size());
  std::size_t done = 0;
  for (const std::size_t count : {16U, 640U, 32U, 1408U, 2000U}) {
    parts.draw(more.data() + done, count);
    done += count;
  }
  CHECK(done == once.size());
  CHECK(once == more);
}

TEST_CASE("noise is standard normal, and finite at both ends of the uniform numbers") {
  Generator generator(3);
  std::vector<float> values(1'000'000);
  generator.draw(values.data(), values.size());
  double sum = 0, square = 0;
  bool finite = true;
  for (const float value : values) {
    finite = finite && std::isfinite(value);
    sum += static_cast<double>(value);
    square += static_cast<double>(value) * static_cast<double>(value);
  }
  CHECK(finite);
  CHECK(std::fabs(sum / 1e6) < 5e-3);
  CHECK(std::fabs(square / 1e6 - 1) < 1e-2);
}

TEST_CASE("seeds that do not fit the batch") {
  const std::string none = message_of([] { NoiseSource source({}); });
  CHECK(none == "seed: an empty list came, one integer or one a sample was expected");
  NoiseSource two({1, 2});
  std::vector<float> values(30);
  CHECK(message_of([&] { two.draw(values.data(), 3, 10); }) ==
        "seed: a list of 2 came, one a sample of the batch of 3 expected");
  NoiseSource one({5});
  one.draw(values.data(), 0, 10);
  one.draw(values.data(), 3, 10);
}
