#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "sampling/checked.h"
#include "sampling/conversion.h"
#include "sampling/edm.h"
#include "sampling/rows.h"
#include "sampling/sigmas.h"
#include "sampling/solvers/solvers.h"

namespace dit_deploy::sampling {

nlohmann::json heun_options() {
  return merged({beta_options(),
                 sigma_spacing_options(),
                 {{"beta_start", 0.00085},
                  {"beta_end", 0.012},
                  {"prediction_type", "epsilon"},
                  {"clip_sample", false},
                  {"clip_sample_range", 1.0},
                  {"timestep_spacing", "linspace"},
                  {"steps_offset", 0}}});
}

SolverTable build_heun(const Options& options, const SolverRequest& request) {
  const std::string prediction_type = options.choice("prediction_type", {"epsilon", "sample", "v_prediction"});
  const double clip =
      options.flag("clip_sample") ? options.number("clip_sample_range", 0) : std::numeric_limits<double>::infinity();
  const bool clipped = !std::isinf(clip);
  const EdmLevels levels = edm_levels(options, request, {"exp"});
  // Only x₀ can be clipped; the derivative is as well conditioned at the low sigmas as the prediction itself.
  const auto output = [&](double sigma) {
    const Pair derivative = derivative_from(prediction_type, sigma);
    return clipped ? Pair{1 - sigma * derivative[0], -sigma * derivative[1]} : derivative;
  };

  Rows rows;
  const std::size_t begin = first_step(request.begin, levels.size());
  for (std::size_t index = begin; index < levels.size(); ++index) {
    const double sigma = levels.sigmas[index], target = levels.sigmas[index + 1];
    const double dt = target - sigma;
    Entry row;
    row.timestep = levels.timesteps[index];
    row.step = static_cast<std::int64_t>(index - begin);
    row.input_scale = levels.input_scale(index);
    row.output = output(sigma);
    row.clip = clip;
    row.saved = Combination::take();
    row.sample.sample = clipped ? 1 + divided(dt, sigma) : 1;
    row.sample.outputs = {clipped ? divided(-dt, sigma) : dt};
    rows.add(std::move(row));
    if (index + 1 == levels.size()) break;
    const double half = dt / 2;
    Entry corrected;
    corrected.timestep = levels.timesteps[index + 1];
    corrected.step = static_cast<std::int64_t>(index - begin);
    corrected.input_scale = levels.input_scale(index + 1);
    corrected.output = output(target);
    corrected.clip = clip;
    if (clipped) {
      corrected.sample.sample = divided(half, target);
      corrected.sample.saved = 1 + divided(half, sigma);
      corrected.sample.outputs = {divided(-half, target), divided(-half, sigma)};
    } else {
      corrected.sample.saved = 1;
      corrected.sample.outputs = {half, half};
    }
    rows.add(std::move(corrected));
  }
  return rows.table({1, levels.sigmas[begin]}, levels.initial_noise_scale);
}

}  // namespace dit_deploy::sampling
