#include "sampling/sigmas.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "dit_deploy/errors.hpp"
#include "sampling/checked.h"
#include "sampling/numeric.h"
#include "sampling/singles.h"
#include "sampling/special.h"
#include "text.h"

namespace dit_deploy::sampling {

namespace {

constexpr double kRho = 7;     // Karras et al. 2022, table 1
constexpr double kBeta = 0.6;  // Lee et al. 2024, "Beta Sampling is All You Need"

double own_end(const Options& options, const char* name, double otherwise) {
  return options.has(name) ? options.optional_number(name, 0).value_or(otherwise) : otherwise;
}

// A Python number beside an array of T.
template <class T>
T as(double value);
template <>
float as<float>(double value) {
  return to_single(value);
}
template <>
double as<double>(double value) {
  return value;
}

}  // namespace

const std::vector<std::string>& sigma_spacings() {
  static const std::vector<std::string> names{"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"};
  return names;
}

nlohmann::json sigma_spacing_options() {
  nlohmann::json options = nlohmann::json::object();
  for (const std::string& name : sigma_spacings()) options[name] = false;
  return options;
}

std::vector<double> respaced(const std::string& spacing, double high, double low, std::size_t steps,
                             const Options& options) {
  if (spacing != "use_lu_lambdas") {
    high = own_end(options, "sigma_max", high);
    low = own_end(options, "sigma_min", low);
  }
  std::vector<double> sigmas = linspace(0, 1, steps);
  if (spacing == "use_karras_sigmas") {
    const double first = std::pow(high, 1 / kRho), last = std::pow(low, 1 / kRho);
    for (double& sigma : sigmas) sigma = std::pow(first + sigma * (last - first), kRho);
    return sigmas;
  }
  if (spacing == "use_beta_sigmas") {
    for (double& sigma : sigmas) sigma = low + beta_quantile(1 - sigma, kBeta, kBeta) * (high - low);
    return sigmas;
  }
  if (low <= 0) {
    throw InputError(options.scheduler() + ": " + spacing + " needs a smallest sigma above 0, " + number_repr(low) +
                     " came");
  }
  if (spacing == "use_lu_lambdas") {
    // Lu et al. 2022 with rho 1: uniform in the logarithm, as float32 values give it
    const double top = numpy_log(to_single(high)), bottom = numpy_log(to_single(low));
    for (double& sigma : sigmas) sigma = std::exp(top + sigma * (bottom - top));
    return sigmas;
  }
  sigmas = linspace(std::log(high), std::log(low), steps);
  for (double& sigma : sigmas) sigma = std::exp(sigma);
  return sigmas;
}

std::vector<double> timesteps_of(const std::vector<double>& sigmas, const std::vector<float>& schedule) {
  const std::size_t count = schedule.size();
  std::vector<float> logarithms;
  logarithms.reserve(count);
  for (const float sigma : schedule) logarithms.push_back(numpy_log(sigma));
  // The last index whose logarithm is not above the wanted one is the last where the smallest of those from there on
  // is not: that rises, whatever the schedule.
  std::vector<double> smallest(count);
  double least = std::numeric_limits<double>::infinity();
  for (std::size_t index = count; index-- > 0;) {
    if (logarithms[index] < least) least = logarithms[index];
    smallest[index] = least;
  }
  std::vector<double> timesteps;
  timesteps.reserve(sigmas.size());
  for (const double sigma : sigmas) {
    const double wanted = std::log(std::isnan(sigma) ? sigma : std::max(sigma, 1e-10));
    const auto after = std::partition_point(smallest.begin(), smallest.end(),
                                            [wanted](double logarithm) { return wanted - logarithm >= 0; });
    const auto reached = static_cast<std::size_t>(after - smallest.begin());
    if (count < 2) {  // one training step: there is nothing to interpolate
      timesteps.push_back(0);
      continue;
    }
    const std::size_t below = std::min(reached == 0 ? 0 : reached - 1, count - 2);
    const double low = logarithms[below], gap = logarithms[below] - logarithms[below + 1];
    double weight = (low - wanted) / gap;
    if (weight < 0) weight = 0;
    if (weight > 1) weight = 1;
    const auto position = static_cast<double>(below);
    timesteps.push_back((1 - weight) * position + weight * (position + 1));
  }
  return timesteps;
}

template <class T>
std::vector<T> shifted(double shift, std::vector<T> sigmas) {
  const T factor = as<T>(shift), less = as<T>(shift - 1);
  for (T& sigma : sigmas) sigma = factor * sigma / (1 + less * sigma);
  return sigmas;
}

template <class T>
std::vector<T> time_shifted(const std::string& kind, double mu, std::vector<T> sigmas) {
  const T shift = as<T>(kind == "exponential" ? exponential(mu) : mu);
  for (T& sigma : sigmas) sigma = shift / (shift + (1 / sigma - 1));
  return sigmas;
}

template <class T>
std::vector<T> stretched_to_terminal(std::vector<T> sigmas, double terminal) {
  const T last = 1 - sigmas.back();
  if (last == 0) {
    throw InputError("shift_terminal=" + number_repr(terminal) +
                     ": one step from sigma 1 cannot be stretched; use 2 or more steps");
  }
  const T scale = last / as<T>(1 - terminal);
  for (T& sigma : sigmas) sigma = 1 - (1 - sigma) / scale;
  return sigmas;
}

template std::vector<float> shifted(double, std::vector<float>);
template std::vector<double> shifted(double, std::vector<double>);
template std::vector<float> time_shifted(const std::string&, double, std::vector<float>);
template std::vector<double> time_shifted(const std::string&, double, std::vector<double>);
template std::vector<float> stretched_to_terminal(std::vector<float>, double);
template std::vector<double> stretched_to_terminal(std::vector<double>, double);

}  // namespace dit_deploy::sampling
