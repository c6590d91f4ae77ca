// The numpy functions that schedules are made of, rounded as numpy rounds them.
#pragma once

#include <cstddef>
#include <vector>

namespace dit_deploy::sampling {

std::vector<double> linspace(double start, double stop, std::size_t count, bool endpoint = true);
// Evenly spaced logarithms; `start` and `stop` above 0.
std::vector<double> geomspace(double start, double stop, std::size_t count);
// np.arange(start, 0, step) for a start above 0 and a step below.
std::vector<double> falling_range(double start, double step);
// `values` at the positions `at`, linear between the indices of `values` and constant beyond them.
std::vector<double> interpolated(const std::vector<double>& at, const std::vector<float>& values);

// The largest value, NaN where there is one.
float largest(const std::vector<float>& values);
std::vector<float> to_singles(const std::vector<double>& values);
std::vector<double> to_doubles(const std::vector<float>& values);

}  // namespace dit_deploy::sampling
