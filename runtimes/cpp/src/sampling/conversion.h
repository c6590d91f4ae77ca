// What a denoiser predicts, as linear functions of its sample and its output; dit_deploy/sampling/conversion.py.
//
// With sample = signal · x₀ + noise · ε, the predictions are ε, x₀ ("sample"), v = signal · ε − noise · x₀ (Salimans & Ho
// 2022) and, for flow matching, ε − x₀ with signal = 1 − noise (Liu et al. 2022). Each function returns {coefficient of
// the sample, coefficient of the output}.
#pragma once

#include <array>
#include <string>

namespace dit_deploy::sampling {

using Pair = std::array<double, 2>;

// x₀; infinite for "epsilon" where the signal is 0.
Pair sample_from(const std::string& prediction_type, double signal, double noise);
// ε; infinite for "sample" where there is no noise.
Pair epsilon_from(const std::string& prediction_type, double signal, double noise);
// (sample − x₀) / sigma where sample = x₀ + sigma · ε and the denoiser saw sample / √(sigma² + 1).
Pair derivative_from(const std::string& prediction_type, double sigma);

}  // namespace dit_deploy::sampling
