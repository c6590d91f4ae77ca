// The noise levels that DPM-Solver and UniPC step through, in the half log-SNR of Lu et al. 2022;
// dit_deploy/sampling/levels.py.
#pragma once

#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "sampling/options.h"
#include "sampling/schedulers.h"

namespace dit_deploy::sampling {

// The options that the two classes share, with diffusers' defaults.
nlohmann::json level_options();

// Noise levels from high to low; level i belongs to timestep i, the last one is where sampling ends.
struct Levels {
  std::vector<double> timesteps;      // [steps], whole numbers
  std::vector<double> signal, noise;  // [steps + 1], sample = signal · x₀ + noise · ε

  std::size_t size() const { return timesteps.size(); }
  // λ = log(signal / noise): infinite at the end of sampling where the noise is 0, NaN where the signal is.
  double half_log_snr(std::size_t index) const;
};

// The levels of DPMSolverMultistepScheduler, and of UniPCMultistepScheduler.
Levels dpm_levels(const Options& options, const SolverRequest& request);
Levels unipc_levels(const Options& options, const SolverRequest& request);

}  // namespace dit_deploy::sampling
