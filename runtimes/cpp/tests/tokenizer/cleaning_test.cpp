// What is done to a prompt before it becomes tokens, against Python's own methods of texts.
#include "tokenizer/cleaning.h"

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

using dit_deploy::tokenizer::cleaned;

TEST_CASE("cleaning: each step is Python's") {
  const auto path = std::filesystem::path(DIT_DEPLOY_TEST_DATA) / "golden" / "tokenizers" / "cleaning.json";
  std::ifstream stream(path);
  const auto golden = nlohmann::json::parse(stream);
  CHECK(golden.at("cleaned").size() == 4);
  for (const auto& [step, expected] : golden.at("cleaned").items()) {
    CAPTURE(step);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      CHECK(cleaned(golden.at("texts").at(i).get<std::string>(), step) == expected.at(i).get<std::string>());
    }
  }
}
