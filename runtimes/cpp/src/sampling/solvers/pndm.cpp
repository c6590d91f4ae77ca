#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "dit_deploy/errors.hpp"
#include "sampling/checked.h"
#include "sampling/rows.h"
#include "sampling/schedules.h"
#include "sampling/solvers/solvers.h"

namespace dit_deploy::sampling {

namespace {

using Timesteps = std::vector<std::int64_t>;

constexpr std::size_t kWarmUpSteps = 3;

// Adams-Bashforth weights of the newest output first, by how many there are.
const std::vector<double>& multistep_weights(std::size_t count) {
  static const std::vector<double> weights[] = {
      {1.0},
      {3.0 / 2, -1.0 / 2},
      {23.0 / 12, -16.0 / 12, 5.0 / 12},
      {55.0 / 24, -59.0 / 24, 37.0 / 24, -9.0 / 24},
  };
  return weights[count - 1];
}
constexpr std::size_t kMostOutputs = 4;

// Writes the rows, remembering at which rows the outputs that the multistep uses were made.
class Plan {
 public:
  Plan(const std::vector<float>& products, double final_level, bool velocity, std::int64_t stride)
      : products_(products), final_(final_level), velocity_(velocity), stride_(stride) {}

  // The first step is made twice, the second time with the mean of the outputs at its two ends.
  void halved_start(const Timesteps& timesteps) {
    const std::int64_t first = timesteps[0];
    keep();
    add(first, 0, {first, first - stride_}, {1}, false, true);
    if (timesteps.size() > 1) {
      const std::int64_t second = timesteps[1];
      add(second, 0, {second + stride_, second}, {0.5, 0.5}, true);
    }
    multistep(timesteps, 1);
  }

  // Three steps of four evaluations each, at the start, twice halfway and at the end.
  void runge_kutta_start(const Timesteps& timesteps) {
    const std::int64_t half = stride_ / 2;
    for (std::size_t step = 0; step < kWarmUpSteps; ++step) {
      const std::int64_t here = timesteps[step], after = timesteps[step + 1];
      keep();
      add(here, step, {here, here - half}, {1}, false, true);
      add(after + half, step, {here, after + half}, {1}, true);
      add(after + half, step, {here, after}, {1}, true);
      add(after, step, {here, after}, {1.0 / 6, 1.0 / 3, 1.0 / 3, 1.0 / 6}, true);
    }
    multistep(timesteps, kWarmUpSteps);
  }

  SolverTable table(std::int64_t first) const {
    const double start = level(first);
    return rows_.table({std::sqrt(start), std::sqrt(1 - start)});
  }

 private:
  // The next row's output is one that the multistep uses.
  void keep() { kept_.push_back(rows_.size()); }

  // Adams-Bashforth over the outputs kept so far.
  void multistep(const Timesteps& timesteps, std::size_t begin) {
    for (std::size_t step = begin; step < timesteps.size(); ++step) {
      keep();
      const std::size_t count = std::min(kept_.size(), kMostOutputs);
      const std::size_t newest = kept_.back(), oldest = kept_[kept_.size() - count];
      std::vector<double> weights(newest - oldest + 1);
      for (std::size_t k = 0; k < count; ++k) {
        weights[newest - kept_[kept_.size() - 1 - k]] = multistep_weights(count)[k];
      }
      add(timesteps[step], step, {timesteps[step], timesteps[step] - stride_}, std::move(weights));
    }
  }

  // ᾱ of a timestep; below 0 that of the end.
  double level(std::int64_t timestep) const {
    const auto count = static_cast<std::int64_t>(products_.size());
    if (timestep >= count) {
      throw InputError("PNDMScheduler: timestep " + std::to_string(timestep) + " is past the last one, " +
                       std::to_string(count - 1) +
                       "; use another timestep_spacing, a smaller steps_offset or fewer steps");
    }
    return timestep >= 0 ? static_cast<double>(products_[static_cast<std::size_t>(timestep)]) : final_;
  }

  // Appends the row that goes from one timestep of `span` to the other (eq. 11 of the paper), from the saved sample or
  // the current one, which `take` saves.
  void add(std::int64_t timestep, std::size_t step, std::pair<std::int64_t, std::int64_t> span,
           std::vector<double> outputs, bool from_saved = false, bool take = false) {
    const double from = level(span.first), to = level(span.second);
    double slope = divided(-(to - from), from * std::sqrt(1 - to) + std::sqrt(from * (1 - from) * to));
    double factor = std::sqrt(divided(to, from));
    if (velocity_) {  // ε = signal · v + noise · (the sample that the step starts from)
      factor += slope * std::sqrt(1 - from);
      slope *= std::sqrt(from);
    }
    for (double& output : outputs) output = slope * output;
    Entry row;
    row.timestep = static_cast<double>(timestep);
    row.step = static_cast<std::int64_t>(step);
    (from_saved ? row.sample.saved : row.sample.sample) = factor;
    row.sample.outputs = std::move(outputs);
    if (take) row.saved = Combination::take();
    rows_.add(std::move(row));
  }

  const std::vector<float>& products_;
  double final_;
  bool velocity_;
  std::int64_t stride_;
  Rows rows_;
  std::vector<std::size_t> kept_;
};

}  // namespace

nlohmann::json pndm_options() {
  return merged({beta_options(),
                 {{"skip_prk_steps", false},
                  {"set_alpha_to_one", false},
                  {"prediction_type", "epsilon"},
                  {"timestep_spacing", "leading"},
                  {"steps_offset", 0}}});
}

// Image-to-image starts the warm-up over at its first timestep. Diffusers' pipelines cut the list of timesteps, which
// holds the second one twice, and so feed the denoiser a timestep that is not the sample's.
SolverTable build_pndm(const Options& options, const SolverRequest& request) {
  const std::string prediction_type = options.choice("prediction_type", {"epsilon", "v_prediction"});
  check_steps(options, request.num_inference_steps);
  const std::vector<float> products = alphas_cumprod(options);
  const auto steps = static_cast<std::size_t>(request.num_inference_steps);
  Timesteps timesteps = whole(spaced_timesteps(options, steps));
  timesteps.erase(timesteps.begin(),
                  timesteps.begin() + static_cast<std::ptrdiff_t>(first_step(request.begin, timesteps.size())));
  const double final_level = options.flag("set_alpha_to_one") ? 1 : static_cast<double>(products.front());
  Plan plan(products, final_level, prediction_type == "v_prediction",
            static_cast<std::int64_t>(products.size() / steps));
  if (options.flag("skip_prk_steps")) {
    plan.halved_start(timesteps);
  } else if (timesteps.size() <= kWarmUpSteps) {
    throw InputError("num_inference_steps: PNDMScheduler with skip_prk_steps=False needs at least " +
                     std::to_string(kWarmUpSteps + 1) + " steps to run, " + std::to_string(timesteps.size()) +
                     " came; set skip_prk_steps=True");
  } else {
    plan.runge_kutta_start(timesteps);
  }
  return plan.table(timesteps.front());
}

}  // namespace dit_deploy::sampling
