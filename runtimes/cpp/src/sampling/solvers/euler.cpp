#include <cmath>
#include <nlohmann/json.hpp>

#include "sampling/checked.h"
#include "sampling/conversion.h"
#include "sampling/edm.h"
#include "sampling/rows.h"
#include "sampling/sigmas.h"
#include "sampling/solvers/solvers.h"

namespace dit_deploy::sampling {

namespace {

SolverTable euler_table(const EdmLevels& levels, const std::vector<double>& timesteps, const SolverRequest& request,
                        const std::string& prediction_type, bool ancestral) {
  Rows rows;
  const std::size_t begin = first_step(request.begin, levels.size());
  for (std::size_t index = begin; index < levels.size(); ++index) {
    const double sigma = levels.sigmas[index];
    double target = levels.sigmas[index + 1], fresh = 0;
    if (ancestral) {
      fresh = std::sqrt(divided(squared(target) * (squared(sigma) - squared(target)), squared(sigma)));
      target = std::sqrt(squared(target) - squared(fresh));
    }
    Entry row;
    row.timestep = timesteps[index];
    row.step = static_cast<std::int64_t>(index - begin);
    row.input_scale = levels.input_scale(index);
    row.output = derivative_from(prediction_type, sigma);
    row.sample.sample = 1;
    row.sample.noise = fresh;
    row.sample.outputs = {target - sigma};
    row.noise_draws = ancestral ? 1 : 0;
    rows.add(std::move(row));
  }
  return rows.table({1, levels.sigmas[begin]}, levels.initial_noise_scale);
}

}  // namespace

nlohmann::json euler_ancestral_options() {
  return merged({beta_options(),
                 {{"prediction_type", "epsilon"},
                  {"timestep_spacing", "linspace"},
                  {"steps_offset", 0},
                  {"rescale_betas_zero_snr", false}}});
}

nlohmann::json euler_options() {
  return merged({euler_ancestral_options(),
                 sigma_spacing_options(),
                 {{"interpolation_type", "linear"},
                  {"sigma_min", nullptr},
                  {"sigma_max", nullptr},
                  {"timestep_type", "discrete"},
                  {"final_sigmas_type", "zero"}}});
}

// Without churn, as the pipelines run it.
SolverTable build_euler(const Options& options, const SolverRequest& request) {
  const std::string prediction_type =
      options.choice("prediction_type", {"epsilon", "sample", "original_sample", "v_prediction"});
  const bool continuous = options.choice("timestep_type", {"discrete", "continuous"}) == "continuous";
  const EdmLevels levels = edm_levels(options, request);
  std::vector<double> timesteps = levels.timesteps;
  if (continuous && prediction_type == "v_prediction") {
    for (std::size_t index = 0; index < timesteps.size(); ++index) {
      timesteps[index] = 0.25 * std::log(levels.sigmas[index]);
    }
  }
  return euler_table(levels, timesteps, request, prediction_type, false);
}

SolverTable build_euler_ancestral(const Options& options, const SolverRequest& request) {
  const std::string prediction_type = options.choice("prediction_type", {"epsilon", "v_prediction"});
  const EdmLevels levels = edm_levels(options, request);
  return euler_table(levels, levels.timesteps, request, prediction_type, true);
}

}  // namespace dit_deploy::sampling
