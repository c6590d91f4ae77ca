// Solver tables, and the messages of those that there are none of, against the Python package's.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "dit_deploy/errors.hpp"
#include "sampling/golden_file.h"
#include "sampling/schedulers.h"

using namespace dit_deploy;
using namespace dit_deploy::tests;
using nlohmann::json;
using sampling::SolverTable;

namespace {

constexpr double kTolerance = 1e-10;

sampling::SolverRequest request_of(const json& given) {
  sampling::SolverRequest request;
  request.num_inference_steps = given.at("num_inference_steps").get<std::int64_t>();
  request.begin = given.value("begin", std::int64_t{0});
  request.eta = given.value("eta", 0.0);
  if (given.contains("mu")) request.mu = given.at("mu").get<double>();
  if (given.contains("sigmas")) request.sigmas = given.at("sigmas").get<std::vector<double>>();
  return request;
}

// A row in the golden file's order.
std::vector<double> flat(const sampling::Row& row) {
  std::vector<double> numbers{
      row.timestep, static_cast<double>(row.step),        row.input_scale,     row.output[0],      row.output[1],
      row.clip,     static_cast<double>(row.noise_draws), row.log_variance[0], row.log_variance[1]};
  numbers.insert(numbers.end(), row.saved.begin(), row.saved.end());
  numbers.insert(numbers.end(), row.sample.begin(), row.sample.end());
  return numbers;
}

// How far `value` is from what is expected, relative to it; null is an infinite clip or a NaN.
double relative_difference(double value, const json& expected) {
  if (expected.is_null()) return std::isfinite(value) ? std::numeric_limits<double>::infinity() : 0;
  const auto right = expected.get<double>();
  return value == right ? 0 : std::fabs(value - right) / std::fabs(right);
}

void check_close(double value, const json& expected) {
  CHECK_MESSAGE(relative_difference(value, expected) <= kTolerance, value, " came, ", expected.dump(), " expected");
}

void check_table(const SolverTable& table, const json& expected) {
  REQUIRE(table.rows.size() == expected.at("count").get<std::size_t>());
  CHECK(table.history() == expected.at("history").get<std::size_t>());
  CHECK(table.num_steps == expected.at("num_steps").get<std::int64_t>());
  check_close(table.initial_noise_scale, expected.at("initial_noise_scale"));
  check_close(table.start.first, expected.at("start").at(0));
  check_close(table.start.second, expected.at("start").at(1));
  for (std::size_t index = 0; index < expected.at("kept").size(); ++index) {
    const auto row = expected.at("kept").at(index).get<std::size_t>();
    const json& columns = expected.at("rows").at(index);
    const std::vector<double> numbers = flat(table.rows.at(row));
    REQUIRE(numbers.size() == columns.size());
    for (std::size_t column = 0; column < numbers.size(); ++column) {
      INFO("row ", row, ", number ", column);
      check_close(numbers[column], columns.at(column));
    }
  }
}

}  // namespace

TEST_CASE("solver tables and messages are Python's") {
  const json golden = read_golden("tables.json");
  for (const json& expected : golden.at("tables")) {
    INFO(expected.at("name").get<std::string>(), ": ", expected.at("config").dump(), " ",
         expected.at("request").dump());
    const sampling::SolverRequest request = request_of(expected.at("request"));
    const auto make = [&] { return sampling::solver_table(expected.at("config"), request); };
    if (expected.contains("error")) {
      CHECK(message_of(make) == expected.at("error").get<std::string>());
      continue;
    }
    SolverTable table;
    REQUIRE_NOTHROW(table = make());
    check_table(table, expected);
  }
}

TEST_CASE("schedulers' names mean what they mean in Python") {
  const json golden = read_golden("tables.json");
  for (const json& expected : golden.at("schedulers")) {
    INFO(expected.at("own").dump(), " asked for ", expected.at("asked").dump());
    const auto resolve = [&] { return sampling::resolve_scheduler(expected.at("own"), expected.at("asked")); };
    if (expected.contains("error")) {
      CHECK(message_of(resolve) == expected.at("error").get<std::string>());
    } else {
      CHECK(resolve() == expected.at("config"));
    }
  }
}

TEST_CASE("a config as text is read strictly") {
  const json own{{"_class_name", "DDIMScheduler"}};
  const auto asked = [&](const char* text) { return message_of([&] { sampling::resolve_scheduler(own, text); }); };
  CHECK(sampling::resolve_scheduler(own, " {\"_class_name\": \"LCMScheduler\", \"beta_end\": -Infinity}\n") ==
        json{{"_class_name", "LCMScheduler"}, {"beta_end", -std::numeric_limits<double>::infinity()}});
  for (const char* text : {"{", "{\"_class_name\": \"LCMScheduler\"} x", "{\"_class_name\": 1, \"_class_name\": 2}",
                           "{\"beta_end\": NaN}", "{\"\xff\": 1}"}) {
    INFO(text);
    CHECK(asked(text).rfind("scheduler: ", 0) == 0);
  }
}

TEST_CASE("image-to-image begins where it does in Python") {
  const json golden = read_golden("tables.json");
  for (const json& expected : golden.at("begins")) {
    INFO(expected.dump());
    const auto begin = [&] {
      return sampling::image_to_image_begin(expected.at("steps").get<std::int64_t>(),
                                            expected.at("strength").get<double>(), expected.at("round_up").get<bool>());
    };
    if (expected.contains("error")) {
      CHECK(message_of(begin) == expected.at("error").get<std::string>());
    } else {
      CHECK(begin() == expected.at("begin").get<std::int64_t>());
    }
  }
}

TEST_CASE("configs beyond all measure are refused, not computed") {
  const double infinity = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  const std::int64_t most = std::numeric_limits<std::int64_t>::max();
  const std::uint64_t beyond = std::numeric_limits<std::uint64_t>::max();
  const auto refused = [](json config, const char* name) {
    config["_class_name"] = name;
    sampling::SolverRequest request;
    request.num_inference_steps = 4;
    return message_of([&] { sampling::solver_table(config, request); });
  };
  const char* const dpm = "DPMSolverMultistepScheduler";
  for (const json& config :
       {json{{"num_train_timesteps", most}}, json{{"num_train_timesteps", beyond}}, json{{"steps_offset", beyond}},
        json{{"steps_offset", most}}, json{{"beta_start", nan}}, json{{"beta_end", infinity}},
        json{{"trained_betas", {0.1, 0.1, 0.1, nan}}, {"num_train_timesteps", 4}}}) {
    INFO(config.dump());
    CHECK(refused(config, "DDIMScheduler").rfind("DDIMScheduler: ", 0) == 0);
  }
  CHECK(refused({{"lambda_min_clipped", infinity}}, dpm) != "no error");
  CHECK(refused({{"trained_betas", {1.0, 1.0, 1.0, 1.0}}, {"num_train_timesteps", 4}}, dpm) != "no error");
  CHECK(refused({{"trained_betas", {0.0, 0.0, 0.0, 0.0}}, {"num_train_timesteps", 4}}, dpm) != "no error");
  CHECK(refused({{"use_karras_sigmas", true}, {"sigma_max", infinity}}, "EulerDiscreteScheduler") != "no error");
  CHECK(refused({{"use_exponential_sigmas", true}, {"sigma_max", 0.0}}, "EulerDiscreteScheduler") != "no error");
  CHECK(refused({{"use_dynamic_shifting", true}}, "FlowMatchEulerDiscreteScheduler") != "no error");
}

TEST_CASE("what a config takes the model's output for") {
  CHECK(sampling::prediction_type({{"_class_name", "DDIMScheduler"}}) == "epsilon");
  CHECK(sampling::prediction_type({{"_class_name", "DDIMScheduler"}, {"prediction_type", "v_prediction"}}) ==
        "v_prediction");
  CHECK(sampling::prediction_type(
            {{"_class_name", "EulerDiscreteScheduler"}, {"prediction_type", "original_sample"}}) == "sample");
  CHECK(sampling::prediction_type(json{{"_class_name", "FlowMatchHeunDiscreteScheduler"}}) == "flow_prediction");
  CHECK(sampling::num_train_timesteps(json{{"_class_name", "DDIMScheduler"}}) == 1000);
  CHECK(sampling::num_train_timesteps({{"_class_name", "DDIMScheduler"}, {"num_train_timesteps", 250}}) == 250);
}
