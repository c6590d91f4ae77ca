#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "dit_deploy/errors.hpp"
#include "sampling/checked.h"
#include "sampling/conversion.h"
#include "sampling/numeric.h"
#include "sampling/rows.h"
#include "sampling/schedules.h"
#include "sampling/solvers/solvers.h"

namespace dit_deploy::sampling {

namespace {

constexpr double kSigmaData = 0.5;

// The timesteps of `steps` steps, spread over those that the model was distilled for.
std::vector<std::size_t> distilled_timesteps(std::size_t train, std::size_t original, std::size_t steps) {
  std::vector<std::size_t> timesteps;
  for (const double place : linspace(0, static_cast<double>(original), steps, false)) {
    const auto from_end = static_cast<std::size_t>(std::floor(place));
    timesteps.push_back((original - from_end) * (train / original) - 1);
  }
  return timesteps;
}

}  // namespace

nlohmann::json lcm_options() {
  return merged({beta_options(),
                 dynamic_thresholding_options(),
                 {{"beta_start", 0.00085},
                  {"beta_end", 0.012},
                  {"beta_schedule", "scaled_linear"},
                  {"original_inference_steps", 50},
                  {"clip_sample", false},
                  {"clip_sample_range", 1.0},
                  // diffusers reads neither of these two, nor the spacing: a next timestep below 0 does not occur
                  {"set_alpha_to_one", true},
                  {"steps_offset", 0},
                  {"timestep_spacing", "leading"},
                  {"prediction_type", "epsilon"},
                  {"timestep_scaling", 10.0},
                  {"rescale_betas_zero_snr", false}}});
}

SolverTable build_lcm(const Options& options, const SolverRequest& request) {
  const std::string prediction_type = options.choice("prediction_type", {"epsilon", "sample", "v_prediction"});
  options.choice("timestep_spacing", spacings());
  const double clip =
      options.flag("clip_sample") ? options.number("clip_sample_range", 0) : std::numeric_limits<double>::infinity();
  const double scaling = options.number("timestep_scaling");
  check_steps(options, request.num_inference_steps);
  const std::vector<float> products = alphas_cumprod(options);
  const std::int64_t original =
      options.integer("original_inference_steps", 1, static_cast<std::int64_t>(products.size()));
  if (request.num_inference_steps > original) {
    throw InputError("num_inference_steps: " + std::to_string(request.num_inference_steps) +
                     " came, at most original_inference_steps = " + std::to_string(original) + " can be run");
  }
  const auto steps = static_cast<std::size_t>(request.num_inference_steps);
  const std::vector<std::size_t> timesteps =
      distilled_timesteps(products.size(), static_cast<std::size_t>(original), steps);

  Rows rows;
  const std::size_t begin = first_step(request.begin, steps);
  for (std::size_t index = begin; index < steps; ++index) {
    const double level = products[timesteps[index]];
    const double scaled = static_cast<double>(timesteps[index]) * scaling;
    const double spread = squared(scaled) + kSigmaData * kSigmaData;
    const bool last = index + 1 == steps;
    const double following = last ? 1 : static_cast<double>(products[timesteps[index + 1]]);
    const double signal = std::sqrt(following);
    Entry row;
    row.timestep = static_cast<double>(timesteps[index]);
    row.step = static_cast<std::int64_t>(index - begin);
    row.output = sample_from(prediction_type, std::sqrt(level), std::sqrt(1 - level));
    row.clip = clip;
    row.sample.sample = signal * (kSigmaData * kSigmaData / spread);
    row.sample.noise = std::sqrt(1 - following);
    row.sample.outputs = {signal * (scaled / std::sqrt(spread))};
    row.noise_draws = last ? 0 : 1;
    rows.add(std::move(row));
  }
  const double first = products[timesteps[begin]];
  return rows.table({std::sqrt(first), std::sqrt(1 - first)});
}

}  // namespace dit_deploy::sampling
