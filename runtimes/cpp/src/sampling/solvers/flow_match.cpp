#include <nlohmann/json.hpp>

#include "sampling/numeric.h"
#include "sampling/rows.h"
#include "sampling/schedules.h"
#include "sampling/sigmas.h"
#include "sampling/singles.h"
#include "sampling/solvers/solvers.h"

namespace dit_deploy::sampling {

namespace {

bool dynamic_shifting(const Options& options) {
  return options.has("use_dynamic_shifting") && options.flag("use_dynamic_shifting");
}

// Sigmas at even distances between the ends of the training schedule.
//
// The ends are shifted already, and the caller shifts what comes between them: diffusers shifts twice.
std::vector<double> evenly(const Options& options, const SolverRequest& request) {
  const std::size_t train = options.train_timesteps();
  check_steps(options, request.num_inference_steps);
  const auto count = static_cast<double>(train);
  std::vector<float> ends{1, 1 / static_cast<float>(train)};
  if (!dynamic_shifting(options)) ends = shifted(options.number("shift", 0), std::move(ends));
  std::vector<double> sigmas = linspace(static_cast<double>(ends[0]) * count, static_cast<double>(ends[1]) * count,
                                        static_cast<std::size_t>(request.num_inference_steps));
  for (double& sigma : sigmas) sigma /= count;
  return sigmas;
}

// The shifts that the config asks for, on the caller's own sigmas in float32, on the scheduler's in float64, as in
// diffusers.
template <class T>
std::vector<T> shifted_as_asked(std::vector<T> sigmas, const Options& options, const SolverRequest& request,
                                const std::string& kind, double terminal) {
  if (options.flag("use_dynamic_shifting")) {
    if (!request.mu) options.refuse("use_dynamic_shifting", "mu must be given with it");
    sigmas = time_shifted(kind, *request.mu, std::move(sigmas));
  } else {
    sigmas = shifted(options.number("shift", 0), std::move(sigmas));
  }
  return terminal != 0 ? stretched_to_terminal(std::move(sigmas), terminal) : sigmas;
}

std::vector<double> euler_sigmas(const Options& options, const SolverRequest& request) {
  const std::string kind = options.choice("time_shift_type", {"exponential", "linear"});
  const double terminal = options.optional_number("shift_terminal", 0).value_or(0);
  const std::optional<std::string> spacing = options.exclusive(sigma_spacings());
  std::vector<double> sigmas;
  if (request.sigmas) {
    sigmas = to_doubles(shifted_as_asked(to_singles(*request.sigmas), options, request, kind, terminal));
  } else {
    sigmas = shifted_as_asked(evenly(options, request), options, request, kind, terminal);
  }
  if (spacing) {
    const auto steps = static_cast<std::size_t>(request.num_inference_steps);
    sigmas = respaced(*spacing, sigmas.front(), sigmas.back(), steps, options);
  }
  return sigmas;
}

// Float32 values as in diffusers.
struct FlowLevels {
  std::vector<double> timesteps;  // [steps]
  std::vector<double> sigmas;     // [steps + 1]
};

FlowLevels finished(const Options& options, const std::vector<double>& sigmas, bool inverted) {
  const auto count = static_cast<float>(options.train_timesteps());
  FlowLevels levels;
  for (const double sigma : sigmas) {
    const float value = inverted ? 1 - to_single(sigma) : to_single(sigma);
    levels.timesteps.push_back(value * count);
    levels.sigmas.push_back(value);
  }
  levels.sigmas.push_back(inverted ? 1 : 0);
  return levels;
}

}  // namespace

nlohmann::json flow_heun_options() { return {{"num_train_timesteps", 1000}, {"shift", 1.0}}; }

nlohmann::json flow_euler_options() {
  return merged(
      {flow_heun_options(),
       sigma_spacing_options(),
       {{"use_dynamic_shifting", false},
        // these four give mu from the number of image tokens; the pipelines compute it, and so does the caller
        {"base_shift", 0.5},
        {"max_shift", 1.15},
        {"base_image_seq_len", 256},
        {"max_image_seq_len", 4096},
        {"invert_sigmas", false},
        {"shift_terminal", nullptr},
        {"time_shift_type", "exponential"},
        {"stochastic_sampling", false}}});
}

SolverTable build_flow_euler(const Options& options, const SolverRequest& request) {
  const bool stochastic = options.flag("stochastic_sampling");
  const std::vector<double> sigmas = euler_sigmas(options, request);
  const FlowLevels levels = finished(options, sigmas, options.flag("invert_sigmas"));
  Rows rows;
  const std::size_t begin = first_step(request.begin, levels.timesteps.size());
  for (std::size_t index = begin; index < levels.timesteps.size(); ++index) {
    const double sigma = levels.sigmas[index], target = levels.sigmas[index + 1];
    Entry row;
    row.timestep = levels.timesteps[index];
    row.step = static_cast<std::int64_t>(index - begin);
    if (stochastic) {  // back to x₀, then noise anew
      row.sample.sample = 1 - target;
      row.sample.prediction = -(1 - target) * sigma;
      row.sample.noise = target;
    } else {
      row.sample.sample = 1;
      row.sample.prediction = target - sigma;
    }
    row.noise_draws = stochastic ? 1 : 0;
    rows.add(std::move(row));
  }
  return rows.table({1 - levels.sigmas[begin], levels.sigmas[begin]});
}

// Two evaluations a step, one in the last.
SolverTable build_flow_heun(const Options& options, const SolverRequest& request) {
  const std::vector<double> even = evenly(options, request);
  const FlowLevels levels = finished(options, shifted(options.number("shift", 0), even), false);
  Rows rows;
  const std::size_t begin = first_step(request.begin, levels.timesteps.size());
  for (std::size_t index = begin; index < levels.timesteps.size(); ++index) {
    const double dt = levels.sigmas[index + 1] - levels.sigmas[index];
    Entry row;
    row.timestep = levels.timesteps[index];
    row.step = static_cast<std::int64_t>(index - begin);
    row.sample.sample = 1;
    row.sample.outputs = {dt};
    row.saved = Combination::take();
    rows.add(std::move(row));
    if (index + 1 == levels.timesteps.size()) break;
    Entry corrected;
    corrected.timestep = levels.timesteps[index + 1];
    corrected.step = static_cast<std::int64_t>(index - begin);
    corrected.sample.saved = 1;
    corrected.sample.outputs = {dt / 2, dt / 2};
    rows.add(std::move(corrected));
  }
  return rows.table({1 - levels.sigmas[begin], levels.sigmas[begin]});
}

}  // namespace dit_deploy::sampling
