// The two samplers of CogVideoX (Yang et al. 2024): DDIM, and an SDE DPM-Solver++ of order 2;
// dit_deploy/sampling/solvers/cogvideox.py says what they do.
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "sampling/checked.h"
#include "sampling/conversion.h"
#include "sampling/numeric.h"
#include "sampling/rows.h"
#include "sampling/schedules.h"
#include "sampling/singles.h"
#include "sampling/solvers/solvers.h"

namespace dit_deploy::sampling {

namespace {

// One step, from ᾱ = `level` to ᾱ = `next`; `last` where the timestep of `next` lies below 0.
struct Step {
  std::int64_t index = 0, timestep = 0;
  double level = 0, next = 0;
  bool last = false;
  Pair output{};
};

// ᾱ becomes ᾱ / (s + (1 − s) ᾱ); and, where a zero terminal SNR is asked for, √ᾱ is shifted and scaled. In the precision
// of `Real`.
template <typename Real>
std::vector<double> shifted(std::vector<Real> products, const Options& options) {
  const double shift = options.number("snr_shift_scale", 0);
  const auto scale = static_cast<Real>(shift), rest = static_cast<Real>(1 - shift);
  for (Real& product : products) product = product / (scale + rest * product);
  if (options.flag("rescale_betas_zero_snr")) {
    for (Real& product : products) product = std::sqrt(product);
    const Real first = products.front(), last = products.back(), factor = first / (first - last);
    for (Real& product : products) {
      const Real root = (product - last) * factor;
      product = root * root;
    }
  }
  return {products.begin(), products.end()};
}

// ᾱ, in the precision of the class: float64 where scaled_linear makes β, else float32.
std::vector<double> products_of(const Options& options) {
  const std::vector<float> steps = betas(options, {}, false);
  if (!options.get("trained_betas").is_null() || !options.is("beta_schedule", "scaled_linear"))
    return shifted(running_product(steps), options);
  const double low = options.number("beta_start", 0, 1), high = options.number("beta_end", 0, 1);
  std::vector<double> products = linspace(std::pow(low, 0.5), std::pow(high, 0.5), steps.size());
  double product = 1;
  for (double& value : products) value = product *= 1 - value * value;
  return shifted(std::move(products), options);
}

// The steps that are run. The next timestep is always num_train_timesteps // num_inference_steps lower, as in diffusers,
// also where the next row's timestep is another one (linspace, trailing).
std::vector<Step> steps_of(const Options& options, const SolverRequest& request) {
  const std::string prediction_type = options.choice("prediction_type", {"epsilon", "sample", "v_prediction"});
  check_steps(options, request.num_inference_steps);
  const std::vector<double> products = products_of(options);
  const double final_level = options.flag("set_alpha_to_one") ? 1 : products.front();
  const auto count = static_cast<std::size_t>(request.num_inference_steps);
  const std::vector<std::int64_t> timesteps = whole(spaced_timesteps(options, count));
  const std::vector<double> levels = levels_at(timesteps, products, options);
  const auto stride = static_cast<std::int64_t>(products.size() / count);
  std::vector<Step> steps;
  const std::size_t begin = first_step(request.begin, timesteps.size());
  for (std::size_t index = begin; index < timesteps.size(); ++index) {
    const std::int64_t following = timesteps[index] - stride;
    Step step;
    step.index = static_cast<std::int64_t>(index - begin);
    step.timestep = timesteps[index];
    step.level = levels[index];
    step.next = following >= 0 ? products[static_cast<std::size_t>(following)] : final_level;
    step.last = following < 0;
    step.output = sample_from(prediction_type, std::sqrt(step.level), std::sqrt(1 - step.level));
    steps.push_back(step);
  }
  return steps;
}

std::pair<double, double> start_of(const Step& step) { return {std::sqrt(step.level), std::sqrt(1 - step.level)}; }

// How much of the noise is kept.
double kept(const Step& step) { return std::sqrt(divided(1 - step.next, 1 - step.level)); }

// λ = ½ log(ᾱ / (1 − ᾱ)), infinite where there is no noise, or nothing but noise.
double half_log_snr(double level) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (level <= 0) return -kInfinity;
  return level >= 1 ? kInfinity : 0.5 * std::log(level / (1 - level));
}

Entry entry_of(const Step& step) {
  Entry row;
  row.timestep = static_cast<double>(step.timestep);
  row.step = step.index;
  row.output = step.output;
  return row;
}

}  // namespace

nlohmann::json cogvideox_options() {
  return merged({beta_options(),
                 {{"beta_start", 0.00085},
                  {"beta_end", 0.012},
                  {"beta_schedule", "scaled_linear"},
                  {"clip_sample", true},
                  {"clip_sample_range", 1.0},
                  {"sample_max_value", 1.0},
                  {"set_alpha_to_one", true},
                  {"steps_offset", 0},
                  {"prediction_type", "epsilon"},
                  {"timestep_spacing", "leading"},
                  {"rescale_betas_zero_snr", false},
                  {"snr_shift_scale", 3.0}}});
}

SolverTable build_cogvideox_ddim(const Options& options, const SolverRequest& request) {
  Rows rows;
  const std::vector<Step> steps = steps_of(options, request);
  for (const Step& step : steps) {
    Entry row = entry_of(step);
    row.sample.sample = kept(step);
    row.sample.outputs = {std::sqrt(step.next) - std::sqrt(step.level) * row.sample.sample};
    rows.add(std::move(row));
  }
  return rows.table(start_of(steps.front()));
}

// New = decay · sample + weight · D + deviation · noise, where D extrapolates the predicted x₀ over the last two rows.
SolverTable build_cogvideox_dpm(const Options& options, const SolverRequest& request) {
  Rows rows;
  const std::vector<Step> steps = steps_of(options, request);
  for (std::size_t index = 0; index < steps.size(); ++index) {
    const Step& step = steps[index];
    const double h = half_log_snr(step.next) - half_log_snr(step.level);
    const double left = -exponential_less_1(-2 * h), weight = left * std::sqrt(step.next);
    const bool second = index > 0 && !step.last;
    Entry row = entry_of(step);
    row.sample.outputs = {weight};
    if (second) {
      // h over twice the last step; 0 after a step from pure noise
      const double slope = divided(h, 2 * (half_log_snr(step.level) - half_log_snr(steps[index - 1].level)));
      row.sample.outputs = {weight * (1 + slope), -weight * slope};
    }
    row.sample.sample = kept(step) * exponential(-h);
    row.sample.noise = std::sqrt(1 - step.next) * std::sqrt(left);
    row.noise_draws = second ? 2 : 1;
    rows.add(std::move(row));
  }
  return rows.table(start_of(steps.front()));
}

}  // namespace dit_deploy::sampling
