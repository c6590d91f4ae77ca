#include "sampling/conversion.h"

#include <cmath>
#include <limits>

namespace dit_deploy::sampling {

namespace {

double ratio(double numerator, double denominator) {
  return denominator != 0 ? numerator / denominator : std::numeric_limits<double>::infinity();
}

}  // namespace

Pair sample_from(const std::string& prediction_type, double signal, double noise) {
  if (prediction_type == "epsilon") return {ratio(1, signal), -ratio(noise, signal)};
  if (prediction_type == "v_prediction") return {signal, -noise};
  if (prediction_type == "flow_prediction") return {1, -noise};
  return {0, 1};
}

Pair epsilon_from(const std::string& prediction_type, double signal, double noise) {
  if (prediction_type == "sample") return {ratio(1, noise), -ratio(signal, noise)};
  if (prediction_type == "v_prediction") return {noise, signal};
  return {0, 1};
}

Pair derivative_from(const std::string& prediction_type, double sigma) {
  if (prediction_type == "epsilon") return {0, 1};
  if (prediction_type == "v_prediction") return {sigma / (sigma * sigma + 1), 1 / std::sqrt(sigma * sigma + 1)};
  return {ratio(1, sigma), -ratio(1, sigma)};
}

}  // namespace dit_deploy::sampling
