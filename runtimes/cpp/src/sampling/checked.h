// Arithmetic that Python's own numbers refuse: a division by 0, a result beyond the largest number.
#pragma once

#include <cmath>

namespace dit_deploy::sampling {

// Two steps fall on the same noise level; solver_table makes an InputError of it.
struct SameLevel {};

inline double divided(double numerator, double denominator) {
  if (denominator == 0) throw SameLevel{};
  return numerator / denominator;
}

// Throws where a finite `x` gave an infinite `value`.
inline double not_overflowed(double value, double x) {
  if (std::isinf(value) && std::isfinite(x)) throw SameLevel{};
  return value;
}

inline double exponential(double x) { return not_overflowed(std::exp(x), x); }
inline double exponential_less_1(double x) { return not_overflowed(std::expm1(x), x); }
inline double squared(double x) { return not_overflowed(x * x, x); }

}  // namespace dit_deploy::sampling
