// A row corrects the sample it was evaluated at, from the corrected sample of the step before (`saved`), and predicts
// the next one from the result. Both are one step of the same kind, written over m_0, m_1, … by unipc_step.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "sampling/checked.h"
#include "sampling/conversion.h"
#include "sampling/levels.h"
#include "sampling/rows.h"
#include "sampling/solvers/solvers.h"

namespace dit_deploy::sampling {

namespace {

using nlohmann::json;

struct Config {
  std::string prediction_type;
  std::int64_t solver_order;
  bool data;  // m is x₀, or ε
  bool bh1;   // B(h) is h, or exp(h) − 1
  bool lower_order_final;
  std::vector<std::int64_t> uncorrected;
};

Config checked_config(const Options& options) {
  Config config{};
  config.data = options.flag("predict_x0");
  std::vector<std::string> predictions{"epsilon", "sample", "v_prediction"};
  if (config.data) predictions.emplace_back("flow_prediction");
  config.prediction_type = options.choice("prediction_type", predictions);
  config.solver_order = options.integer("solver_order", 1, 3);
  // the names of DPM-Solver and DEIS are read as bh2, as diffusers does
  config.bh1 = options.choice("solver_type", {"bh1", "bh2", "midpoint", "heun", "logrho"}) == "bh1";
  config.lower_order_final = options.flag("lower_order_final");
  if (!options.get("solver_p").is_null()) options.refuse("solver_p", "only None, the predictor of UniPC itself");
  const json& uncorrected = options.get("disable_corrector");
  const auto is_step = [](const json& step) { return step.is_number_integer() || step.is_boolean(); };
  if (!uncorrected.is_array() || !std::all_of(uncorrected.begin(), uncorrected.end(), is_step)) {
    options.refuse("disable_corrector", "a list of steps");
  }
  for (const json& step : uncorrected) {
    config.uncorrected.push_back(step.is_boolean() ? step.get<bool>() : step.get<std::int64_t>());
  }
  if (config.prediction_type == "flow_prediction" && !options.flag("use_flow_sigmas")) {
    options.refuse("prediction_type", "flow_prediction needs use_flow_sigmas=True");
  }
  if (options.is("final_sigmas_type", "zero") && !(config.data && config.lower_order_final)) {
    options.refuse("final_sigmas_type", "predict_x0=False or lower_order_final=False needs sigma_min");
  }
  return config;
}

// Solves `matrix` · x = `right` by elimination with row exchanges, as LAPACK does. Throws SameLevel where there is no
// solution.
std::vector<double> solved(std::vector<std::vector<double>> matrix, std::vector<double> right) {
  const std::size_t size = right.size();
  for (std::size_t column = 0; column < size; ++column) {
    std::size_t pivot = column;
    for (std::size_t row = column + 1; row < size; ++row) {
      if (std::fabs(matrix[row][column]) > std::fabs(matrix[pivot][column])) pivot = row;
    }
    if (matrix[pivot][column] == 0) throw SameLevel{};
    std::swap(matrix[pivot], matrix[column]);
    std::swap(right[pivot], right[column]);
    for (std::size_t row = column + 1; row < size; ++row) {
      const double factor = matrix[row][column] / matrix[column][column];
      for (std::size_t k = column; k < size; ++k) matrix[row][k] -= factor * matrix[column][k];
      right[row] -= factor * right[column];
    }
  }
  for (std::size_t row = size; row-- > 0;) {
    for (std::size_t k = row + 1; k < size; ++k) right[row] -= matrix[row][k] * right[k];
    right[row] /= matrix[row][row];
  }
  return right;
}

// The ρ of eq. 12: powers of the ratios times ρ give the moments of the exponential integral.
std::vector<double> factors_of(const std::vector<double>& ratios, double x, double weight) {
  if (ratios.size() == 1) return {0.5};  // the paper's choice for the lowest order, not the solution
  std::vector<std::vector<double>> powers;
  std::vector<double> moments;
  double value = divided(exponential_less_1(x), x) - 1, factorial = 1;
  std::vector<double> row(ratios.size(), 1);
  for (std::size_t power = 1; power <= ratios.size(); ++power) {
    powers.push_back(row);
    for (std::size_t k = 0; k < ratios.size(); ++k) row[k] *= ratios[k];
    moments.push_back(divided(value * factorial, weight));
    factorial *= static_cast<double>(power) + 1;
    value = divided(value, x) - 1 / factorial;
  }
  return solved(std::move(powers), std::move(moments));
}

struct Step {
  double decay;                 // factor of the sample
  std::vector<double> outputs;  // factors of the outputs
};

// The step from level `index` to the next one, from the `order` outputs up to and with that at `index`. For the corrector
// the output at `index` + 1 is there too: then m_0 is that one, and the others follow it.
Step unipc_step(const Levels& levels, std::size_t index, std::size_t order, const Config& config, bool corrector) {
  const double start = levels.half_log_snr(index), h = levels.half_log_snr(index + 1) - start;
  const double signal = levels.signal[index + 1], noise = levels.noise[index + 1];
  Step step{config.data ? divided(noise, levels.noise[index]) : divided(signal, levels.signal[index]),
            std::vector<double>(order + (corrector ? 1 : 0))};
  if (h == 0) return step;  // Karras sigmas that end at sigma_min: the last step goes nowhere
  const double scale = config.data ? signal : noise;
  const double x = config.data ? -h : h;
  const double weight = config.bh1 ? x : exponential_less_1(x);
  const std::size_t first = corrector ? 1 : 0;  // where the output at `index` stands
  step.outputs[first] = -scale * exponential_less_1(x);
  // the outputs that belong to the ratios: those before `index`, then the one at its end
  std::vector<double> ratios;
  std::vector<std::size_t> places;
  for (std::size_t k = 1; k < order; ++k) {
    ratios.push_back((levels.half_log_snr(index - k) - start) / h);
    places.push_back(first + k);
  }
  if (corrector) {
    ratios.push_back(1);
    places.push_back(0);
  }
  if (ratios.empty()) return step;
  const std::vector<double> factors = factors_of(ratios, x, weight);
  for (std::size_t k = 0; k < ratios.size(); ++k) {
    const double difference = scale * weight * factors[k] / ratios[k];
    step.outputs[places[k]] -= difference;
    step.outputs[first] += difference;
  }
  return step;
}

}  // namespace

json unipc_options() {
  return merged({beta_options(),
                 dynamic_thresholding_options(),
                 level_options(),
                 {{"solver_order", 2},
                  {"prediction_type", "epsilon"},
                  {"predict_x0", true},
                  {"solver_type", "bh2"},
                  {"lower_order_final", true},
                  {"disable_corrector", json::array()},
                  {"solver_p", nullptr},
                  {"sigma_min", nullptr},
                  {"sigma_max", nullptr},
                  {"shift_terminal", nullptr}}});
}

SolverTable build_unipc(const Options& options, const SolverRequest& request) {
  const Config config = checked_config(options);
  const Levels levels = unipc_levels(options, request);
  const auto convert = config.data ? sample_from : epsilon_from;

  Rows rows;
  std::size_t order = 0;
  const std::size_t begin = first_step(request.begin, levels.size());
  for (std::size_t index = begin; index < levels.size(); ++index) {
    Combination corrected = Combination::take();
    // diffusers counts the steps of disable_corrector from the start of the whole schedule
    const auto before = static_cast<std::int64_t>(index) - 1;
    if (index > begin &&
        std::find(config.uncorrected.begin(), config.uncorrected.end(), before) == config.uncorrected.end()) {
      const Step step = unipc_step(levels, index - 1, order, config, true);
      corrected = Combination{};
      corrected.saved = step.decay;
      corrected.outputs = step.outputs;
    }
    order = std::min(static_cast<std::size_t>(config.solver_order), index - begin + 1);
    if (config.lower_order_final) order = std::min(order, levels.size() - index);
    const Step step = unipc_step(levels, index, order, config, false);
    Entry row;
    row.timestep = levels.timesteps[index];
    row.step = static_cast<std::int64_t>(index - begin);
    row.output = convert(config.prediction_type, levels.signal[index], levels.noise[index]);
    row.sample.sample = step.decay * corrected.sample;
    row.sample.saved = step.decay * corrected.saved;
    row.sample.outputs.resize(std::max(corrected.outputs.size(), step.outputs.size()));
    for (std::size_t k = 0; k < row.sample.outputs.size(); ++k) {
      row.sample.outputs[k] = step.decay * (k < corrected.outputs.size() ? corrected.outputs[k] : 0) +
                              (k < step.outputs.size() ? step.outputs[k] : 0);
    }
    row.saved = corrected.saved != 0 ? corrected : Combination::take();
    rows.add(std::move(row));
  }
  return rows.table({levels.signal[begin], levels.noise[begin]});
}

}  // namespace dit_deploy::sampling
