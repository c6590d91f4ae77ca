// The noise levels that the solvers over sigma step through (Karras et al. 2022), sample = x₀ + sigma · ε;
// dit_deploy/sampling/edm.py.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "sampling/options.h"
#include "sampling/schedulers.h"

namespace dit_deploy::sampling {

// Noise levels from high to low; level i belongs to timestep i.
struct EdmLevels {
  std::vector<double> timesteps;  // [steps], fractional training timesteps
  std::vector<double> sigmas;     // [steps + 1 or more]; a step ends at the next one
  double initial_noise_scale = 1;

  std::size_t size() const { return timesteps.size(); }
  // What makes the sample of a level unit variance.
  double input_scale(std::size_t index) const;
};

// The levels of the Euler, Euler ancestral, Heun and LMS schedulers; `schedules` are beta schedules that the class has
// beyond the common ones.
EdmLevels edm_levels(const Options& options, const SolverRequest& request,
                     const std::vector<std::string>& schedules = {});

}  // namespace dit_deploy::sampling
