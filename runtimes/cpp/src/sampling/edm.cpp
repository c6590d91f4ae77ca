#include "sampling/edm.h"

#include <cmath>

#include "sampling/numeric.h"
#include "sampling/schedules.h"
#include "sampling/sigmas.h"

namespace dit_deploy::sampling {

namespace {

// diffusers' stand-in for a zero terminal SNR, whose sigma would be infinite: 2⁻²⁴
constexpr float kSmallestProduct = 5.9604644775390625e-08F;

}  // namespace

double EdmLevels::input_scale(std::size_t index) const { return 1 / std::sqrt(sigmas[index] * sigmas[index] + 1); }

EdmLevels edm_levels(const Options& options, const SolverRequest& request, const std::vector<std::string>& schedules) {
  const auto steps = static_cast<std::size_t>(request.num_inference_steps);
  check_steps(options, request.num_inference_steps);
  const std::vector<float> schedule = edm_sigmas(alphas_cumprod(options, schedules, kSmallestProduct));
  Spacing unrounded;
  unrounded.rounded = false;
  std::vector<double> timesteps = spaced_timesteps(options, steps, unrounded);
  std::vector<double> sigmas = interpolated(timesteps, schedule);
  if (options.has("interpolation_type") &&
      options.choice("interpolation_type", {"linear", "log_linear"}) == "log_linear") {
    // from end to end of the whole schedule; a value more than steps, so that the last step ends at the smallest
    sigmas = geomspace(schedule.back(), schedule.front(), steps + 1);
  }
  if (const auto spacing = options.exclusive(sigma_spacings())) {
    sigmas = respaced(*spacing, sigmas.front(), sigmas.back(), steps, options);
    timesteps = timesteps_of(sigmas, schedule);
  }
  double final_sigma = 0;
  if (options.has("final_sigmas_type") && options.choice("final_sigmas_type", {"zero", "sigma_min"}) == "sigma_min") {
    final_sigma = schedule.front();
  }
  sigmas.push_back(final_sigma);
  // diffusers keeps sigmas and timesteps in float32
  const std::vector<float> values = to_singles(sigmas);
  const double most = largest(values);
  return {to_doubles(to_singles(timesteps)), to_doubles(values),
          options.is("timestep_spacing", "leading") ? std::sqrt(most * most + 1) : most};
}

}  // namespace dit_deploy::sampling
