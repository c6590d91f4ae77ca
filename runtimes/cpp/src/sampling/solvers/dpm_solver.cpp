// All four variants are one formula. With λ = log(signal / noise), h the step in λ, and m the predicted x₀ (++) or ε:
//
//   new = decay · sample + φ₁ m_0 + c₁ D₁ + c₂ D₂ + deviation · noise
//
// where D₁ and D₂ are divided differences of m over λ. Written out over m_0, m_1, m_2 the divisions by h cancel, so that
// the coefficients stay finite for the empty last step of Karras sigmas that end at sigma_min.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "sampling/checked.h"
#include "sampling/conversion.h"
#include "sampling/levels.h"
#include "sampling/rows.h"
#include "sampling/solvers/solvers.h"

namespace dit_deploy::sampling {

namespace {

// What sets the four algorithms apart.
struct Variant {
  const char* name;
  double exponent;     // x / h, where exp(x) is what the integral over λ leaves
  bool signal_scaled;  // m multiplies the next level's signal (x₀) or noise (ε), and the sample the other ratio
  double weight;       // the factor before it
  bool stochastic;     // noise is added
  // The sign before x² / 2 in the third-order term. Diffusers has a plus for sde-dpmsolver++, where the other variants,
  // and the expansion, have a minus; followed so that the pictures agree.
  double curvature;
};

constexpr Variant kVariants[] = {
    {"dpmsolver++", -1, true, -1, false, -1},
    {"sde-dpmsolver++", -2, true, -1, true, 1},
    {"dpmsolver", 1, false, -1, false, -1},
    {"sde-dpmsolver", 1, false, -2, true, -1},
};

const Variant& chosen_variant(const Options& options) {
  std::vector<std::string> names;
  for (const Variant& variant : kVariants) names.emplace_back(variant.name);
  const std::string algorithm = options.choice("algorithm_type", names);
  return *std::find_if(std::begin(kVariants), std::end(kVariants),
                       [&](const Variant& variant) { return algorithm == variant.name; });
}

// The order that diffusers allows near the end; it counts all steps, also those that `begin` leaves out.
std::int64_t order_limit(const Options& options, std::size_t index, std::size_t steps) {
  const bool few = options.flag("lower_order_final") && steps < 15;
  const std::size_t left = steps - index;
  if (left == 1 && (few || options.flag("euler_at_final") || options.is("final_sigmas_type", "zero"))) return 1;
  return left == 2 && few ? 2 : 3;
}

// The step in λ from a level to the next one.
double gap(const Levels& levels, std::size_t index) {
  return levels.half_log_snr(index + 1) - levels.half_log_snr(index);
}

// The step from a level to the next one over the last `order` outputs.
Combination step_from(const Levels& levels, std::size_t index, std::int64_t order, const Variant& variant, bool heun) {
  const double h = gap(levels, index);
  const double x = variant.exponent * h;
  const double signal = levels.signal[index + 1], noise = levels.noise[index + 1];
  double scale = 0, decay = 0, deviation = 0;
  if (variant.signal_scaled) {
    scale = variant.weight * signal;
    decay = divided(noise, levels.noise[index]);
  } else {
    scale = variant.weight * noise;
    decay = divided(signal, levels.signal[index]);
  }
  if (variant.stochastic && variant.signal_scaled) {
    decay *= exponential(-h);
    deviation = noise * std::sqrt(-exponential_less_1(-2 * h));
  } else if (variant.stochastic) {
    deviation = noise * std::sqrt(exponential_less_1(2 * h));
  }

  // φ₁, and h times the factor of D₁ / h: all that remains finite at h = 0
  std::array<double, 3> outputs{scale * exponential_less_1(x), 0, 0};
  if (order > 1) {
    const double before = gap(levels, index - 1);
    const std::array<double, 3> slope{1 / before, -1 / before, 0};
    const double linear = scale * (exponential_less_1(x) - x) / variant.exponent;
    if (order == 2) {
      const double factor = heun ? linear : 0.5 * scale * h * exponential_less_1(x);
      for (std::size_t k = 0; k < 3; ++k) outputs[k] += slope[k] * factor;
    } else {
      const double earlier = gap(levels, index - 2);
      const std::array<double, 3> older{0, 1 / earlier, -1 / earlier};
      const double quadratic =
          scale * (exponential_less_1(x) - x + variant.curvature * squared(x) / 2) / squared(variant.exponent);
      for (std::size_t k = 0; k < 3; ++k) {
        const double bend = (slope[k] - older[k]) / (before + earlier);
        outputs[k] += linear * (slope[k] + before * bend) + quadratic * bend;
      }
    }
  }
  Combination combination;
  combination.sample = decay;
  combination.noise = deviation;
  combination.outputs.assign(outputs.begin(), outputs.begin() + order);
  return combination;
}

}  // namespace

nlohmann::json dpm_solver_options() {
  return merged({beta_options(),
                 dynamic_thresholding_options(),
                 level_options(),
                 {{"solver_order", 2},
                  {"prediction_type", "epsilon"},
                  {"algorithm_type", "dpmsolver++"},
                  {"solver_type", "midpoint"},
                  {"lower_order_final", true},
                  {"euler_at_final", false},
                  {"use_lu_lambdas", false},
                  {"lambda_min_clipped", -std::numeric_limits<double>::infinity()},
                  // A denoiser with a learned variance hands over its prediction alone here, so this changes nothing.
                  {"variance_type", nullptr}}});
}

SolverTable build_dpm_solver(const Options& options, const SolverRequest& request) {
  const Variant& variant = chosen_variant(options);
  const std::string algorithm = variant.name;
  const bool plus = variant.signal_scaled;
  std::vector<std::string> predictions{"epsilon", "sample", "v_prediction"};
  if (plus) predictions.emplace_back("flow_prediction");
  const std::string prediction_type = options.choice("prediction_type", predictions);
  const std::int64_t solver_order = options.integer("solver_order", 1, algorithm == "sde-dpmsolver" ? 2 : 3);
  // the names of UniPC and DEIS are read as midpoint, as diffusers does
  const bool heun = options.choice("solver_type", {"midpoint", "logrho", "bh1", "bh2", "heun"}) == "heun";
  if (prediction_type == "flow_prediction" && !options.flag("use_flow_sigmas")) {
    options.refuse("prediction_type", "flow_prediction needs use_flow_sigmas=True");
  }
  if (!plus && options.is("final_sigmas_type", "zero")) {
    options.refuse("final_sigmas_type", "algorithm_type='" + algorithm + "' needs sigma_min");
  }
  options.choice("time_shift_type", {"exponential"});
  const Levels levels = dpm_levels(options, request);
  const auto convert = plus ? sample_from : epsilon_from;

  Rows rows;
  const std::size_t begin = first_step(request.begin, levels.size());
  for (std::size_t index = begin; index < levels.size(); ++index) {
    const auto step = static_cast<std::int64_t>(index - begin);
    const std::int64_t order = std::min({solver_order, step + 1, order_limit(options, index, levels.size())});
    Entry row;
    row.timestep = levels.timesteps[index];
    row.step = step;
    row.output = convert(prediction_type, levels.signal[index], levels.noise[index]);
    row.sample = step_from(levels, index, order, variant, heun);
    row.noise_draws = variant.stochastic ? 1 : 0;
    rows.add(std::move(row));
  }
  return rows.table({levels.signal[begin], levels.noise[begin]});
}

}  // namespace dit_deploy::sampling
