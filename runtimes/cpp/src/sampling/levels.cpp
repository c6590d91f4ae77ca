#include "sampling/levels.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "sampling/checked.h"
#include "sampling/numeric.h"
#include "sampling/schedules.h"
#include "sampling/sigmas.h"
#include "sampling/singles.h"

namespace dit_deploy::sampling {

namespace {

// diffusers' stand-in for a zero terminal SNR: 2⁻²⁴
constexpr float kSmallestProduct = 5.9604644775390625e-08F;

void round_all(std::vector<double>& values) {
  for (double& value : values) value = std::nearbyint(value);
}

std::vector<double> scaled(std::vector<double> values, std::size_t factor) {
  for (double& value : values) value *= static_cast<double>(factor);
  return values;
}

// One past the highest timestep whose λ is not below lambda_min_clipped.
std::size_t last_timestep(const Options& options, const std::vector<float>& products) {
  std::vector<float> rising;
  for (auto product = products.rbegin(); product != products.rend(); ++product) {
    rising.push_back(numpy_log(std::sqrt(*product)) - numpy_log(std::sqrt(1 - *product)));
  }
  const float clip = to_single(options.number("lambda_min_clipped"));
  const auto before = [](float a, float b) { return a < b || (std::isnan(b) && !std::isnan(a)); };
  const auto clipped = std::lower_bound(rising.begin(), rising.end(), clip, before) - rising.begin();
  return products.size() - static_cast<std::size_t>(clipped);
}

Levels levels_from(const Options& options, const std::vector<double>& timesteps, const std::vector<double>& sigmas,
                   double smallest) {
  const bool ends_at_smallest = options.choice("final_sigmas_type", {"zero", "sigma_min"}) == "sigma_min";
  const bool flow = options.flag("use_flow_sigmas");
  std::vector<double> all = sigmas;
  all.push_back(ends_at_smallest ? smallest : 0);
  Levels levels;
  for (const double timestep : timesteps) levels.timesteps.push_back(std::trunc(timestep));
  for (const double sigma : all) {
    // diffusers keeps sigmas in float32 and derives everything from those
    const auto value = static_cast<double>(to_single(sigma));
    const double signal = flow ? 1 - value : 1 / std::sqrt(value * value + 1);
    levels.signal.push_back(signal);
    levels.noise.push_back(flow ? value : value * signal);
  }
  return levels;
}

double given_mu(const Options& options, const SolverRequest& request) {
  if (!request.mu) options.refuse("use_dynamic_shifting", "mu must be given with it");
  return *request.mu;
}

std::vector<double> unipc_flow_sigmas(const Options& options, const SolverRequest& request, std::size_t count,
                                      std::optional<double> terminal) {
  std::vector<double> sigmas;
  if (request.sigmas) {
    sigmas = *request.sigmas;
  } else {
    sigmas = linspace(1, 1 / static_cast<double>(count), static_cast<std::size_t>(request.num_inference_steps) + 1);
    sigmas.pop_back();
  }
  if (options.flag("use_dynamic_shifting")) {
    const std::string kind = options.choice("time_shift_type", {"exponential", "linear"});
    sigmas = time_shifted(kind, given_mu(options, request), std::move(sigmas));
  } else {
    sigmas = shifted(options.number("flow_shift", 0), std::move(sigmas));
  }
  if (terminal.value_or(0) != 0) sigmas = stretched_to_terminal(std::move(sigmas), *terminal);
  // the signal must not be 0: its logarithm is taken
  if (std::fabs(sigmas.front() - 1) < 1e-6) sigmas.front() -= 1e-6;
  return sigmas;
}

}  // namespace

nlohmann::json level_options() {
  return merged({sigma_spacing_options(),
                 {{"use_flow_sigmas", false},
                  {"flow_shift", 1.0},
                  {"timestep_spacing", "linspace"},
                  {"steps_offset", 0},
                  {"final_sigmas_type", "zero"},
                  {"rescale_betas_zero_snr", false},
                  {"use_dynamic_shifting", false},
                  {"time_shift_type", "exponential"}}});
}

double Levels::half_log_snr(std::size_t index) const {
  // the table refuses NaN by timestep
  if (signal[index] <= 0) return std::numeric_limits<double>::quiet_NaN();
  return noise[index] > 0 ? std::log(signal[index] / noise[index]) : std::numeric_limits<double>::infinity();
}

Levels dpm_levels(const Options& options, const SolverRequest& request) {
  const std::vector<float> products = alphas_cumprod(options, {}, kSmallestProduct);
  const std::vector<float> schedule = edm_sigmas(products);
  const auto steps = static_cast<std::size_t>(request.num_inference_steps);
  std::vector<std::string> names = sigma_spacings();
  names.push_back("use_lu_lambdas");
  const std::optional<std::string> spacing = options.exclusive(names);
  check_steps(options, request.num_inference_steps);
  std::vector<double> sigmas, timesteps;
  if (options.flag("use_flow_sigmas")) {
    if (spacing) {
      options.refuse(*spacing, "not together with use_flow_sigmas (diffusers makes sigmas above 1 of them)");
    }
    double shift = options.number("flow_shift", 0);
    if (request.mu && options.flag("use_dynamic_shifting")) shift = exponential(*request.mu);
    std::vector<double> plain = linspace(1, 1 / static_cast<double>(products.size()), steps + 1);
    for (double& sigma : plain) sigma = 1 - sigma;
    sigmas = shifted(shift, std::move(plain));
    std::reverse(sigmas.begin(), sigmas.end());
    sigmas.pop_back();
    timesteps = scaled(sigmas, products.size());
  } else if (spacing) {
    sigmas = respaced(*spacing, schedule.back(), schedule.front(), steps, options);
    timesteps = timesteps_of(sigmas, schedule);
    const bool whole_ones = *spacing == "use_karras_sigmas" || *spacing == "use_lu_lambdas";
    if (whole_ones && !options.is("beta_schedule", "squaredcos_cap_v2")) round_all(timesteps);
  } else {
    Spacing even;
    even.last = last_timestep(options, products);
    even.beyond = 1;
    timesteps = spaced_timesteps(options, steps, even);
    sigmas = interpolated(timesteps, schedule);
  }
  return levels_from(options, timesteps, sigmas, schedule.front());
}

Levels unipc_levels(const Options& options, const SolverRequest& request) {
  const std::vector<float> schedule = edm_sigmas(alphas_cumprod(options, {}, kSmallestProduct));
  const auto steps = static_cast<std::size_t>(request.num_inference_steps);
  const std::optional<std::string> spacing = options.exclusive(sigma_spacings());
  const bool flow = options.flag("use_flow_sigmas");
  const std::optional<double> terminal = options.optional_number("shift_terminal", 0);
  check_steps(options, request.num_inference_steps);
  if (terminal.value_or(0) != 0 && !flow) options.refuse("shift_terminal", "only with use_flow_sigmas=True");
  std::vector<double> sigmas, timesteps;
  double smallest = schedule.front();
  if (spacing) {
    if (flow && *spacing != "use_karras_sigmas") {
      options.refuse(*spacing, "not together with use_flow_sigmas (diffusers makes sigmas above 1 of them)");
    }
    sigmas = respaced(*spacing, schedule.back(), schedule.front(), steps, options);
    if (flow) {
      for (double& sigma : sigmas) sigma = sigma / (sigma + 1);
      timesteps = scaled(sigmas, schedule.size());
    } else {
      timesteps = timesteps_of(sigmas, schedule);
      if (*spacing == "use_karras_sigmas") round_all(timesteps);
    }
    smallest = sigmas.back();
  } else if (flow) {
    sigmas = unipc_flow_sigmas(options, request, schedule.size(), terminal);
    timesteps = scaled(sigmas, schedule.size());
    smallest = sigmas.back();
  } else {
    Spacing even;
    even.beyond = 1;
    timesteps = spaced_timesteps(options, steps, even);
    sigmas = interpolated(timesteps, schedule);
  }
  return levels_from(options, timesteps, sigmas, smallest);
}

}  // namespace dit_deploy::sampling
