#include "sampling/schedules.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "dit_deploy/errors.hpp"
#include "sampling/checked.h"
#include "sampling/numeric.h"
#include "sampling/singles.h"

namespace dit_deploy::sampling {

namespace {

using Singles = std::vector<float>;

constexpr double kPi = 3.14159265358979323846;

Singles trained_betas(const Options& options, std::size_t count) {
  const nlohmann::json& listed = options.get("trained_betas");
  Singles values;
  if (listed.is_array() && listed.size() == count) {
    for (const nlohmann::json& value : listed) {
      if (!value.is_number() || !(value.get<double>() >= 0 && value.get<double>() <= 1)) break;
      values.push_back(value.get<float>());
    }
  }
  if (values.size() != count) {
    options.refuse("trained_betas", "a list of num_train_timesteps = " + std::to_string(count) + " numbers of 0 to 1");
  }
  return values;
}

// torch.linspace in float32: from both ends to the middle, each point one fused multiply-add.
Singles single_linspace(double low, double high, std::size_t count) {
  const float first = to_single(low), end = to_single(high);
  if (count == 1) return {first};
  const double step = (end - first) / static_cast<float>(count - 1);
  Singles values(count);
  for (std::size_t index = 0; index < count; ++index) {
    values[index] = to_single(index < count / 2 ? first + step * static_cast<double>(index)
                                                : end - step * static_cast<double>(count - 1 - index));
  }
  return values;
}

double laplace(double t) {
  const double decay = -0.5 * std::copysign(1.0, 0.5 - t) * std::log(1 - 2 * std::fabs(0.5 - t) + 1e-6);
  const double snr = std::exp(decay);
  return std::sqrt(snr / (1 + snr));
}

double alpha_bar(const std::string& schedule, double t) {
  if (schedule == "exp") return std::exp(t * -12.0);
  if (schedule == "laplace") return laplace(t);
  const double root = std::cos((t + 0.008) / 1.008 * kPi / 2);
  return root * root;
}

// β from a continuous ᾱ(t), t in 0 … 1, at most 0.999 (Nichol & Dhariwal 2021).
Singles betas_for_alpha_bar(const std::string& schedule, std::size_t count) {
  Singles values;
  const auto parts = static_cast<double>(count);
  for (std::size_t index = 0; index < count; ++index) {
    const auto position = static_cast<double>(index);
    const double ratio = divided(alpha_bar(schedule, (position + 1) / parts), alpha_bar(schedule, position / parts));
    values.push_back(to_single(std::min(1 - ratio, 0.999)));
  }
  return values;
}

// Shifts and scales √ᾱ so that the last one is 0 and the first one stays (Lin et al. 2023, algorithm 1).
Singles rescale_zero_terminal_snr(const Singles& values) {
  Singles roots = running_product(values);
  for (float& root : roots) root = std::sqrt(root);
  const float first = roots.front(), last = roots.back();
  const float factor = first / (first - last);
  Singles betas;
  float before = 1;
  for (const float root : roots) {
    const float scaled = (root - last) * factor;
    const float square = scaled * scaled;
    betas.push_back(1 - square / before);
    before = square;
  }
  return betas;
}

bool zero_snr(const Options& options) {
  return options.has("rescale_betas_zero_snr") && options.flag("rescale_betas_zero_snr");
}

}  // namespace

// torch accumulates float32 products in float64
std::vector<float> running_product(const std::vector<float>& betas) {
  Singles products;
  double product = 1;
  for (const float beta : betas) {
    product *= static_cast<double>(1 - beta);
    products.push_back(to_single(product));
  }
  return products;
}

const std::vector<std::string>& spacings() {
  static const std::vector<std::string> names{"linspace", "leading", "trailing"};
  return names;
}

std::vector<float> betas(const Options& options, const std::vector<std::string>& schedules, bool rescale) {
  const std::size_t count = options.train_timesteps();
  std::vector<std::string> names{"linear", "scaled_linear", "squaredcos_cap_v2"};
  names.insert(names.end(), schedules.begin(), schedules.end());
  const std::string schedule = options.choice("beta_schedule", names);
  const double low = options.number("beta_start", 0, 1), high = options.number("beta_end", 0, 1);
  Singles values;
  if (!options.get("trained_betas").is_null()) {
    values = trained_betas(options, count);
  } else if (schedule == "linear") {
    values = single_linspace(low, high, count);
  } else if (schedule == "scaled_linear") {
    values = single_linspace(std::pow(low, 0.5), std::pow(high, 0.5), count);
    for (float& value : values) value *= value;
  } else if (schedule == "sigmoid") {
    values = single_linspace(-6, 6, count);
    for (float& value : values) value = 1 / (1 + numpy_exp(-value)) * to_single(high - low) + to_single(low);
  } else {
    values = betas_for_alpha_bar(schedule, count);
  }
  return rescale && zero_snr(options) ? rescale_zero_terminal_snr(values) : values;
}

std::vector<float> alphas_cumprod(const Options& options, const std::vector<std::string>& schedules, float smallest) {
  Singles products = running_product(betas(options, schedules));
  if (smallest > 0 && zero_snr(options)) products.back() = smallest;
  return products;
}

std::vector<float> edm_sigmas(const std::vector<float>& products) {
  Singles sigmas;
  for (const float product : products) sigmas.push_back(std::sqrt((1 - product) / product));
  return sigmas;
}

std::vector<double> spaced_timesteps(const Options& options, std::size_t steps, const Spacing& spacing) {
  const std::size_t count = options.train_timesteps();
  const std::size_t last = spacing.last.value_or(count);
  const std::string name = options.choice("timestep_spacing", spacings());
  std::vector<double> timesteps;
  if (name == "linspace") {
    timesteps = linspace(0, static_cast<double>(last) - 1, steps + spacing.beyond);
    std::reverse(timesteps.begin(), timesteps.end());
    timesteps.resize(steps);
    // the solvers that do not round keep the timesteps in float32
    for (double& timestep : timesteps) {
      timestep = spacing.rounded ? std::nearbyint(timestep) : static_cast<double>(to_single(timestep));
    }
  } else if (name == "leading") {
    const auto ratio = static_cast<double>(last / (steps + spacing.beyond));
    const auto offset = static_cast<double>(options.integer("steps_offset", 0));
    for (std::size_t index = 0; index < steps; ++index) {
      timesteps.push_back(static_cast<double>(steps + spacing.beyond - 1 - index) * ratio + offset);
    }
  } else {
    // a point more, −1 after rounding, comes for some numbers of steps (61 of 1000): it is no timestep
    timesteps = falling_range(static_cast<double>(last), -static_cast<double>(count) / static_cast<double>(steps));
    if (timesteps.size() > steps) timesteps.resize(steps);
    for (double& timestep : timesteps) timestep = std::nearbyint(timestep) - 1;
  }
  return timesteps;
}

std::vector<std::int64_t> whole(const std::vector<double>& timesteps) {
  constexpr double kMost = 9007199254740992.0;  // a steps_offset beyond all schedules stays beyond
  std::vector<std::int64_t> integers;
  for (const double timestep : timesteps) integers.push_back(static_cast<std::int64_t>(std::min(timestep, kMost)));
  return integers;
}

std::vector<double> levels_at(const std::vector<std::int64_t>& timesteps, const std::vector<float>& products,
                              const Options& options) {
  return levels_at(timesteps, to_doubles(products), options);
}

std::vector<double> levels_at(const std::vector<std::int64_t>& timesteps, const std::vector<double>& products,
                              const Options& options) {
  const auto last = static_cast<std::int64_t>(products.size()) - 1;
  const std::int64_t highest = *std::max_element(timesteps.begin(), timesteps.end());
  if (highest > last) {
    options.refuse("steps_offset", "timestep " + std::to_string(highest) + " is past the last one, " +
                                       std::to_string(last) + "; use fewer steps");
  }
  std::vector<double> levels;
  for (const std::int64_t timestep : timesteps) {
    levels.push_back(products[static_cast<std::size_t>(timestep)]);
  }
  return levels;
}

void check_steps(const Options& options, std::int64_t steps) {
  const std::size_t count = options.train_timesteps();
  if (steps > static_cast<std::int64_t>(count)) {
    throw InputError("num_inference_steps: " + std::to_string(steps) +
                     " came, at most num_train_timesteps = " + std::to_string(count) + " can be run");
  }
}

}  // namespace dit_deploy::sampling
