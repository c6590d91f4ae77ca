// Discrete noise schedules and timestep spacings, rounded as diffusers rounds them; dit_deploy/sampling/schedules.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "sampling/options.h"

namespace dit_deploy::sampling {

// "linspace", "leading", "trailing"
const std::vector<std::string>& spacings();

// β_t, [num_train_timesteps]; `schedules` are names that the class has beyond the common ones. Without `rescale` the option
// rescale_betas_zero_snr is not heeded.
std::vector<float> betas(const Options& options, const std::vector<std::string>& schedules = {}, bool rescale = true);
// Π (1 − β)
std::vector<float> running_product(const std::vector<float>& betas);
// ᾱ_t = Π (1 − β); `smallest` takes the place of the last value where a zero terminal SNR makes that 0.
std::vector<float> alphas_cumprod(const Options& options, const std::vector<std::string>& schedules = {},
                                  float smallest = 0);
// √((1 − ᾱ) / ᾱ)
std::vector<float> edm_sigmas(const std::vector<float>& products);

struct Spacing {
  std::optional<std::size_t> last;  // one past the highest timestep; num_train_timesteps by default
  std::size_t beyond = 0;           // points computed beyond the steps and dropped at the low end
  bool rounded = true;              // whether linspace is rounded to whole timesteps
};
// Training timesteps from high to low.
std::vector<double> spaced_timesteps(const Options& options, std::size_t steps, const Spacing& spacing = {});
// Those of whole timesteps as integers.
std::vector<std::int64_t> whole(const std::vector<double>& timesteps);

// ᾱ at whole timesteps. Throws InputError where steps_offset moves one past the last.
std::vector<double> levels_at(const std::vector<std::int64_t>& timesteps, const std::vector<float>& products,
                              const Options& options);
std::vector<double> levels_at(const std::vector<std::int64_t>& timesteps, const std::vector<double>& products,
                              const Options& options);
// Throws InputError where there are more inference steps than training steps.
void check_steps(const Options& options, std::int64_t steps);

}  // namespace dit_deploy::sampling
