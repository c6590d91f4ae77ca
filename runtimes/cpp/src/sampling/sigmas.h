// Noise levels over inference steps: Karras, exponential and beta spacing, and the shifts of flow matching;
// dit_deploy/sampling/sigmas.py. What is a template keeps its numbers' type, float or double, as numpy does.
#pragma once

#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "sampling/options.h"

namespace dit_deploy::sampling {

// The flags that replace the sigmas of the timesteps by a spacing between the largest and smallest one: in diffusers'
// order, and as options with their defaults.
const std::vector<std::string>& sigma_spacings();
nlohmann::json sigma_spacing_options();

// `steps` sigmas from `high` to `low`, or to sigma_max and sigma_min where the options have them. `spacing` is one of
// sigma_spacings() or "use_lu_lambdas".
std::vector<double> respaced(const std::string& spacing, double high, double low, std::size_t steps,
                             const Options& options);
// The fractional training timestep of each sigma, by interpolating the logarithms of the schedule.
std::vector<double> timesteps_of(const std::vector<double>& sigmas, const std::vector<float>& schedule);

// shift · sigma / (1 + (shift − 1) · sigma)
template <class T>
std::vector<T> shifted(double shift, std::vector<T> sigmas);
// Shifted by a resolution-dependent `mu` (Esser et al. 2024, eq. 23): "exponential" (mu is the logarithm of the shift)
// or "linear" (mu is the shift).
template <class T>
std::vector<T> time_shifted(const std::string& kind, double mu, std::vector<T> sigmas);
// Stretched about 1 so that the last one is `terminal` (as in LTX-Video).
template <class T>
std::vector<T> stretched_to_terminal(std::vector<T> sigmas, double terminal);

}  // namespace dit_deploy::sampling
