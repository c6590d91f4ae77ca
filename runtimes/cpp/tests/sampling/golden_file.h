// What tests/runtimes/cpp/golden_sampling.py wrote.
#pragma once

#include <cstdint>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "bundle/json.h"

namespace dit_deploy::tests {

// Throws where the file is absent or of another format.
inline nlohmann::json read_golden(const std::string& name) {
  constexpr int kFormat = 1;
  const std::string again = "; run `python tests/runtimes/cpp/golden_sampling.py`";
  const std::string path = std::string(DIT_DEPLOY_TEST_DATA) + "/golden/" + name;
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw std::runtime_error(path + " is not there" + again);
  const std::string text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  nlohmann::json document = bundle::read_object(text, path, true);
  if (document.at("format") != kFormat) {
    throw std::runtime_error(path + " has format " + document.at("format").dump() + ", " + std::to_string(kFormat) +
                             " is read here" + again);
  }
  return document;
}

// What a call throws, or "no error".
template <class Call>
std::string message_of(const Call& call) {
  try {
    call();
  } catch (const InputError& error) {
    return error.what();
  }
  return "no error";
}

// The generator's _Numbers: exact in float32.
class Numbers {
 public:
  explicit Numbers(std::uint64_t seed) : state_(seed) {}

  std::vector<float> array(std::size_t count) {
    std::vector<float> values;
    for (std::size_t index = 0; index < count; ++index) {
      state_ = state_ * 6364136223846793005U + 1442695040888963407U;
      values.push_back(static_cast<float>(static_cast<double>(state_ >> 40) * 0x1p-22 - 2));
    }
    return values;
  }

 private:
  std::uint64_t state_;
};

}  // namespace dit_deploy::tests
