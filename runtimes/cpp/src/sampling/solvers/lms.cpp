#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "sampling/conversion.h"
#include "sampling/edm.h"
#include "sampling/rows.h"
#include "sampling/sigmas.h"
#include "sampling/solvers/solvers.h"

namespace dit_deploy::sampling {

namespace {

constexpr std::size_t kOrder = 4;

// Integrates each Lagrange polynomial of `nodes` from the first node to `end`. Gauss's rule with two points is exact for
// their degree, which is at most three.
std::vector<double> weights(const std::vector<double>& nodes, double end) {
  const double offset = std::sqrt(1.0 / 12);
  const double length = end - nodes[0];
  const double points[] = {nodes[0] + length * (0.5 - offset), nodes[0] + length * (0.5 + offset)};
  std::vector<double> weights;
  for (std::size_t k = 0; k < nodes.size(); ++k) {
    double sum = 0;
    for (const double point : points) {
      double value = 1;
      for (std::size_t j = 0; j < nodes.size(); ++j) {
        if (j != k) value *= (point - nodes[j]) / (nodes[k] - nodes[j]);
      }
      sum += value;
    }
    weights.push_back(length * (sum / 2));
  }
  return weights;
}

}  // namespace

nlohmann::json lms_options() {
  return merged({beta_options(),
                 sigma_spacing_options(),
                 {{"prediction_type", "epsilon"}, {"timestep_spacing", "linspace"}, {"steps_offset", 0}}});
}

// Image-to-image starts over with order 1. Diffusers instead takes the first coefficient of order 4 alone there, a step
// of about twice the length.
SolverTable build_lms(const Options& options, const SolverRequest& request) {
  const std::string prediction_type = options.choice("prediction_type", {"epsilon", "sample", "v_prediction"});
  const EdmLevels levels = edm_levels(options, request);
  Rows rows;
  const std::size_t begin = first_step(request.begin, levels.size());
  for (std::size_t index = begin; index < levels.size(); ++index) {
    std::vector<double> nodes;
    for (std::size_t k = 0; k < std::min(kOrder, index - begin + 1); ++k) nodes.push_back(levels.sigmas[index - k]);
    Entry row;
    row.timestep = levels.timesteps[index];
    row.step = static_cast<std::int64_t>(index - begin);
    row.input_scale = levels.input_scale(index);
    row.output = derivative_from(prediction_type, levels.sigmas[index]);
    row.sample.sample = 1;
    row.sample.outputs = weights(nodes, levels.sigmas[index + 1]);
    rows.add(std::move(row));
  }
  return rows.table({1, levels.sigmas[begin]}, levels.initial_noise_scale);
}

}  // namespace dit_deploy::sampling
