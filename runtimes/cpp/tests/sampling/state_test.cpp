// The loop's arithmetic, guidance and the solver graph's rows, to the bit as numpy computes them.
#include <doctest/doctest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "dit_deploy/errors.hpp"
#include "sampling/golden_file.h"
#include "sampling/guidance.h"
#include "sampling/schedulers.h"
#include "sampling/solver_row.h"
#include "sampling/state.h"

using namespace dit_deploy;
using namespace dit_deploy::tests;
using nlohmann::json;
using sampling::Guidance;
using sampling::SkipLayerGuidance;
using sampling::SolverState;
using sampling::SolverTable;

namespace {

constexpr std::size_t kSize = 15;

SolverTable table_of(const json& expected) {
  sampling::SolverRequest request;
  request.num_inference_steps = expected.at("steps").get<std::int64_t>();
  return sampling::solver_table(expected.at("config"), request);
}

Guidance guidance_of(double scale) {
  Guidance guidance;
  guidance.scale = scale;
  return guidance;
}

}  // namespace

TEST_CASE("a state's samples are numpy's") {
  const json golden = read_golden("tables_state.json");
  for (const json& expected : golden.at("runs")) {
    INFO(expected.at("config").dump());
    const SolverTable table = table_of(expected);
    SolverState state(table, kSize);
    // a second picture on the same state is the same
    for (int picture = 0; picture < 2; ++picture) {
      Numbers numbers(expected.at("steps").get<std::uint64_t>());
      state.reset(numbers.array(kSize).data());
      for (std::size_t row = 0; row < table.rows.size(); ++row) {
        INFO("row ", row);
        std::vector<float> input(kSize);
        state.model_input(row, input.data());
        for (std::size_t index = 0; index < 2; ++index) {
          CHECK(input[index] == expected.at("inputs").at(row).at(index).get<float>());
        }
        const std::vector<float> prediction = numbers.array(kSize), variance = numbers.array(kSize),
                                 noise = numbers.array(kSize);
        state.advance(row, prediction.data(), variance.data(), noise.data());
        const std::vector<float> sample(state.sample(), state.sample() + kSize);
        CHECK(sample == expected.at("samples").at(row).get<std::vector<float>>());
      }
    }
  }
}

TEST_CASE("a state asks for what a row needs") {
  const SolverTable table =
      sampling::solver_table({{"_class_name", "DDPMScheduler"}, {"variance_type", "learned_range"}}, {4, 0, {}, {}, 0});
  SolverState state(table, kSize);
  const std::vector<float> values(kSize, 0.5F);
  state.reset(values.data());
  const auto advanced = [&](std::size_t row, bool prediction, bool variance, bool noise) {
    const float* const there = values.data();
    return message_of(
        [&] { state.advance(row, prediction ? there : nullptr, variance ? there : nullptr, noise ? there : nullptr); });
  };
  CHECK(advanced(1, true, true, true) == "row: 1 came, 0 is next");
  CHECK(advanced(0, false, true, true).rfind("prediction: none came", 0) == 0);
  CHECK(advanced(0, true, false, true).rfind("variance: none came", 0) == 0);
  CHECK(advanced(0, true, true, false).rfind("noise: none came", 0) == 0);
  for (std::size_t row = 0; row < 4; ++row) CHECK(advanced(row, true, true, true) == "no error");
  CHECK(advanced(4, true, true, true) == "row: 4 came, 4 is next");
}

TEST_CASE("guided predictions are numpy's") {
  constexpr std::size_t kBatch = 2, kChannels = 4, kEach = 24, kWidth = 6;
  const json golden = read_golden("tables_state.json");
  for (const json& expected : golden.at("guidance")) {
    INFO(expected.dump());
    Guidance guidance = guidance_of(expected.at("scale").get<double>());
    guidance.rescale = expected.value("rescale", 0.0);
    if (expected.contains("channels")) guidance.channels = expected.at("channels").get<std::int64_t>();
    if (expected.contains("token")) guidance.token = expected.at("token").get<std::int64_t>();
    Numbers numbers(7);
    std::vector<float> conditional = numbers.array(kBatch * kChannels * kEach);
    const std::vector<float> unconditional = numbers.array(conditional.size()), kept = conditional;
    const std::vector<float> without = numbers.array(conditional.size());
    guidance.combine(conditional.data(), unconditional.data(), kBatch, kChannels, kEach, kWidth);
    CHECK(conditional == expected.at("values").get<std::vector<float>>());
    SkipLayerGuidance().add(conditional.data(), kept.data(), without.data(), kept.size());
    CHECK(conditional == expected.at("skipped").get<std::vector<float>>());
  }
}

TEST_CASE("guidance out of range, and the steps that it guides") {
  const double infinity = std::numeric_limits<double>::infinity();
  const auto checked = [](const Guidance& guidance) { return message_of([&] { guidance.check(); }); };
  CHECK(checked(guidance_of(4)) == "no error");
  CHECK(checked(guidance_of(infinity)) == "guidance_scale: inf came, a finite number was expected");
  Guidance channels = guidance_of(4), interval = channels, rescale = channels;
  channels.channels = 0;
  CHECK(checked(channels) == "guidance channels: 0 came, an integer of 1 or more, or None, was expected");
  interval.interval = {0.5, 0.25};
  CHECK(checked(interval) ==
        "guidance interval: (0.5, 0.25) came, two fractions with 0 <= first <= second <= 1 expected");
  rescale.rescale = 1.5;
  CHECK(checked(rescale) == "guidance rescale: 1.5 came, a number of 0 to 1 was expected");
  channels.channels = 5;
  std::vector<float> values(8), others(8);
  CHECK(message_of([&] { channels.combine(values.data(), others.data(), 1, 4, 2, 2); }) ==
        "guidance channels: 5 came, the prediction has 4");

  interval.interval = {0.25, 0.75};
  CHECK_FALSE(interval.active(0, 4));
  CHECK(interval.active(1, 4));
  CHECK_FALSE(interval.active(3, 4));
  CHECK_FALSE(guidance_of(1).active(0, 4));
}

TEST_CASE("guidance by leaving out blocks: its steps, and what is out of range") {
  SkipLayerGuidance skip;
  const auto checked = [](const SkipLayerGuidance& one) { return message_of([&] { one.check(); }); };
  CHECK(checked(skip) == "skip_guidance_layers: () came, indices of blocks were expected");
  skip.layers = {7, -1};
  CHECK(checked(skip) == "skip_guidance_layers: (7, -1) came, indices of blocks were expected");
  skip.layers = {7};
  CHECK(checked(skip) == "no error");
  CHECK_FALSE(skip.active(0, 10));
  CHECK(skip.active(1, 10));
  CHECK_FALSE(skip.active(2, 10));
  skip.start = 0.5;
  CHECK(checked(skip) ==
        "skip_layer_guidance_start and _stop: 0.5 and 0.2 came, two fractions with 0 <= start <= stop <= 1 expected");
  skip.scale = std::numeric_limits<double>::infinity();
  CHECK(checked(skip) == "skip_layer_guidance_scale: inf came, a finite number was expected");
}

TEST_CASE("a constant prediction has no deviation to bring back") {
  Guidance guidance = guidance_of(3);
  guidance.rescale = 1;
  std::vector<float> conditional(6, 0.5F);
  const std::vector<float> unconditional(6, 0.25F);
  guidance.combine(conditional.data(), unconditional.data(), 1, 3, 2, 2);
  CHECK(conditional == std::vector<float>(6, 1.0F));
}

TEST_CASE("the solver graph's rows are Python's") {
  const json golden = read_golden("tables_state.json");
  Guidance guidance = guidance_of(4);
  guidance.interval = {0.2, 0.8};
  for (const json& expected : golden.at("rows")) {
    INFO(expected.at("config").dump());
    const std::vector<sampling::SolverRow> rows = sampling::solver_rows(table_of(expected), guidance, 0.001);
    REQUIRE(rows.size() == expected.at("rows").size());
    for (std::size_t index = 0; index < rows.size(); ++index) {
      const json& row = expected.at("rows").at(index);
      CHECK(rows[index].guided == row.at(0).get<bool>());
      CHECK(rows[index].noise == row.at(1).get<bool>());
      CHECK(rows[index].older == row.at(2).get<std::vector<std::size_t>>());
      const std::vector<float> coefficients(rows[index].coefficients.begin(), rows[index].coefficients.end());
      CHECK(coefficients == row.at(3).get<std::vector<float>>());
    }
  }
}

TEST_CASE("a solver graph does not rescale guidance, nor take more than three older outputs") {
  SolverTable table = sampling::solver_table({{"_class_name", "LMSDiscreteScheduler"}}, {6, 0, {}, {}, 0});
  Guidance guidance = guidance_of(4);
  CHECK(sampling::no_solver_rows(table, guidance).empty());
  for (sampling::Row& row : table.rows) {
    row.sample.assign(sampling::kOutputs + 5, 0.5);
    row.saved.assign(sampling::kOutputs + 5, 0.5);
  }
  CHECK(message_of([&] { sampling::solver_rows(table, guidance, 1); }) ==
        "solver table: row 0 multiplies 4 older outputs, a solver graph takes 3");
  guidance.rescale = 0.5;
  CHECK(message_of([&] { sampling::solver_rows(table, guidance, 1); }) ==
        "guidance rescale: the solver graph has none; the loop on the host has");
}
