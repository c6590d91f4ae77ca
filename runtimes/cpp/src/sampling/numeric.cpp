#include "sampling/numeric.h"

#include <algorithm>
#include <cmath>

#include "sampling/singles.h"

namespace dit_deploy::sampling {

std::vector<double> linspace(double start, double stop, std::size_t count, bool endpoint) {
  std::vector<double> values(count);
  const double delta = stop - start;
  const std::size_t parts = endpoint ? count - 1 : count;
  const double step = delta / static_cast<double>(parts);
  for (std::size_t index = 0; index < count; ++index) {
    const auto position = static_cast<double>(index);
    // numpy's order where a step is 0 or there is none
    const double offset = parts == 0  ? position * delta
                          : step == 0 ? position / static_cast<double>(parts) * delta
                                      : position * step;
    values[index] = offset + start;
  }
  if (endpoint && count > 1) values.back() = stop;
  return values;
}

std::vector<double> geomspace(double start, double stop, std::size_t count) {
  std::vector<double> values = linspace(std::log10(start), std::log10(stop), count);
  for (double& value : values) value = std::pow(10.0, value);
  if (count > 0) values.front() = start;
  if (count > 1) values.back() = stop;
  return values;
}

std::vector<double> falling_range(double start, double step) {
  const double length = std::ceil((0 - start) / step);
  std::vector<double> values(length > 0 ? static_cast<std::size_t>(length) : 0);
  const double delta = (start + step) - start;
  for (std::size_t index = 0; index < values.size(); ++index)
    values[index] = start + static_cast<double>(index) * delta;
  return values;
}

std::vector<double> interpolated(const std::vector<double>& at, const std::vector<float>& values) {
  std::vector<double> out;
  out.reserve(at.size());
  const auto last = static_cast<double>(values.size() - 1);
  for (const double x : at) {
    if (std::isnan(x)) {
      out.push_back(x);
    } else if (x <= 0) {
      out.push_back(static_cast<double>(values.front()));
    } else if (x >= last) {
      out.push_back(static_cast<double>(values.back()));
    } else {
      const double below = std::floor(x);
      const auto index = static_cast<std::size_t>(below);
      const auto low = static_cast<double>(values[index]);
      const double slope = static_cast<double>(values[index + 1]) - low;
      out.push_back(x == below ? low : slope * (x - below) + low);
    }
  }
  return out;
}

float largest(const std::vector<float>& values) {
  float most = values.front();
  for (const float value : values) {
    if (std::isnan(value)) return value;
    most = std::max(most, value);
  }
  return most;
}

std::vector<float> to_singles(const std::vector<double>& values) {
  std::vector<float> out;
  out.reserve(values.size());
  for (const double value : values) out.push_back(to_single(value));
  return out;
}

std::vector<double> to_doubles(const std::vector<float>& values) { return {values.begin(), values.end()}; }

}  // namespace dit_deploy::sampling
