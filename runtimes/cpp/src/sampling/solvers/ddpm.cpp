#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "sampling/checked.h"
#include "sampling/conversion.h"
#include "sampling/rows.h"
#include "sampling/schedules.h"
#include "sampling/solvers/solvers.h"

namespace dit_deploy::sampling {

namespace {

// diffusers' floor of the variance, whose logarithm is taken
constexpr double kSmallestVariance = 1e-20;

}  // namespace

nlohmann::json ddpm_options() {
  return merged({beta_options(),
                 dynamic_thresholding_options(),
                 {{"variance_type", "fixed_small"},
                  {"clip_sample", true},
                  {"clip_sample_range", 1.0},
                  {"prediction_type", "epsilon"},
                  {"timestep_spacing", "leading"},
                  {"steps_offset", 0},
                  {"rescale_betas_zero_snr", false}}});
}

// The original DiT's respacing (SpacedDiffusion) is timestep_spacing="linspace". fixed_large_log is the large variance,
// as its name and its origin (Glide) say; diffusers takes a square root of the logarithm there, which is NaN.
SolverTable build_ddpm(const Options& options, const SolverRequest& request) {
  const std::string prediction_type = options.choice("prediction_type", {"epsilon", "sample", "v_prediction"});
  // "learned" is left out: its variance is the network's output itself, whose square root is a term of its own.
  // None, as a config of DPM-Solver has it, leaves the variance as it is computed: that is the small one.
  const std::string variance_type =
      options.get("variance_type").is_null()
          ? "fixed_small"
          : options.choice("variance_type",
                           {"fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned_range"});
  const bool small = variance_type.rfind("fixed_small", 0) == 0;
  const double clip =
      options.flag("clip_sample") ? options.number("clip_sample_range", 0) : std::numeric_limits<double>::infinity();
  check_steps(options, request.num_inference_steps);
  const auto steps = static_cast<std::size_t>(request.num_inference_steps);
  const std::vector<std::int64_t> timesteps = whole(spaced_timesteps(options, steps));
  const std::vector<double> levels = levels_at(timesteps, alphas_cumprod(options, {"sigmoid", "laplace"}), options);

  Rows rows;
  const std::size_t begin = first_step(request.begin, timesteps.size());
  for (std::size_t index = begin; index < timesteps.size(); ++index) {
    const double level = levels[index], before = index + 1 < levels.size() ? levels[index + 1] : 1;
    const double alpha = divided(level, before);
    const double beta = 1 - alpha;
    const double variance = std::max(divided(1 - before, 1 - level) * beta, kSmallestVariance);
    const bool random = timesteps[index] > 0;
    const bool learned = random && variance_type == "learned_range";
    Entry row;
    row.timestep = static_cast<double>(timesteps[index]);
    row.step = static_cast<std::int64_t>(index - begin);
    row.output = sample_from(prediction_type, std::sqrt(level), std::sqrt(1 - level));
    row.clip = clip;
    row.sample.sample = divided(std::sqrt(alpha) * (1 - before), 1 - level);
    row.sample.noise = random && !learned ? std::sqrt(small ? variance : beta) : 0;
    row.sample.outputs = {divided(std::sqrt(before) * beta, 1 - level)};
    row.noise_draws = random ? 1 : 0;
    if (learned) row.log_variance = {std::log(variance), std::log(beta)};
    rows.add(std::move(row));
  }
  return rows.table({std::sqrt(levels[begin]), std::sqrt(1 - levels[begin])});
}

}  // namespace dit_deploy::sampling
