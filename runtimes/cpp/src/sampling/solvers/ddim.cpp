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

nlohmann::json ddim_options() {
  return merged({beta_options(),
                 dynamic_thresholding_options(),
                 {{"clip_sample", true},
                  {"clip_sample_range", 1.0},
                  {"set_alpha_to_one", true},
                  {"steps_offset", 0},
                  {"prediction_type", "epsilon"},
                  {"timestep_spacing", "leading"},
                  {"rescale_betas_zero_snr", false}}});
}

// The previous timestep is always num_train_timesteps // num_inference_steps lower, as in diffusers, also where the next
// row's timestep is another one (linspace, trailing).
SolverTable build_ddim(const Options& options, const SolverRequest& request) {
  const std::string prediction_type = options.choice("prediction_type", {"epsilon", "sample", "v_prediction"});
  const double clip =
      options.flag("clip_sample") ? options.number("clip_sample_range", 0) : std::numeric_limits<double>::infinity();
  check_steps(options, request.num_inference_steps);
  const auto steps = static_cast<std::size_t>(request.num_inference_steps);
  const std::vector<std::int64_t> timesteps = whole(spaced_timesteps(options, steps));
  const std::vector<float> products = alphas_cumprod(options);
  const std::vector<double> levels = levels_at(timesteps, products, options);
  const auto stride = static_cast<std::int64_t>(products.size() / steps);
  const double final_level = options.flag("set_alpha_to_one") ? 1 : static_cast<double>(products.front());

  Rows rows;
  const std::size_t begin = first_step(request.begin, timesteps.size());
  for (std::size_t index = begin; index < timesteps.size(); ++index) {
    const double level = levels[index];
    const std::int64_t target = timesteps[index] - stride;
    const double before = target >= 0 ? static_cast<double>(products[static_cast<std::size_t>(target)]) : final_level;
    const double signal = std::sqrt(level), noise = std::sqrt(1 - level);
    const double variance = divided(request.eta * request.eta * (1 - before), 1 - level) * (1 - divided(level, before));
    // ε stays that of the unclipped prediction, so it is written over sample and prediction, not over m_0
    const double direction = std::sqrt(std::max(1 - before - variance, 0.0));
    const Pair epsilon = epsilon_from(prediction_type, signal, noise);
    Entry row;
    row.timestep = static_cast<double>(timesteps[index]);
    row.step = static_cast<std::int64_t>(index - begin);
    row.output = sample_from(prediction_type, signal, noise);
    row.clip = clip;
    row.sample.sample = direction * epsilon[0];
    row.sample.prediction = direction * epsilon[1];
    row.sample.noise = std::sqrt(variance);
    row.sample.outputs = {std::sqrt(before)};
    row.noise_draws = request.eta > 0 ? 1 : 0;
    rows.add(std::move(row));
  }
  return rows.table({std::sqrt(levels[begin]), std::sqrt(1 - levels[begin])});
}

}  // namespace dit_deploy::sampling
