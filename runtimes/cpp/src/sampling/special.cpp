#include "sampling/special.h"

#include <cmath>

namespace dit_deploy::sampling {

namespace {

double away_from_zero(double value) {
  constexpr double kTiny = 1e-300;
  return std::fabs(value) > kTiny ? value : kTiny;
}

// The modified Lentz method (Press et al., Numerical Recipes, section 6.4).
double continued_fraction(double x, double a, double b) {
  constexpr int kTerms = 500;
  double c = 1, d = 1 / away_from_zero(1 - (a + b) * x / (a + 1));
  double value = d;
  for (int term = 1; term < kTerms; ++term) {
    const double m = term;
    const double numerators[] = {m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
                                 -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))};
    for (const double numerator : numerators) {
      d = 1 / away_from_zero(1 + numerator * d);
      c = away_from_zero(1 + numerator / c);
      value *= c * d;
    }
    if (std::fabs(c * d - 1) < 1e-16) break;
  }
  return value;
}

// I_x(a, b) for 0 < x < 1 by the continued fraction that converges fast below the mean.
double incomplete_beta(double x, double a, double b, double log_beta) {
  if (x > (a + 1) / (a + b + 2)) return 1 - incomplete_beta(1 - x, b, a, log_beta);
  const double front = std::exp(a * std::log(x) + b * std::log1p(-x) - log_beta) / a;
  return front * continued_fraction(x, a, b);
}

// lgamma for a positive number, without the global sign that the C library's writes.
double log_gamma(double x) { return std::log(std::tgamma(x)); }

}  // namespace

double beta_quantile(double p, double a, double b) {
  if (p <= 0) return 0;
  if (p >= 1) return 1;
  double low = 0, high = 1, x = 0.5;
  const double log_beta = log_gamma(a) + log_gamma(b) - log_gamma(a + b);
  for (int round = 0; round < 200; ++round) {
    const double error = incomplete_beta(x, a, b, log_beta) - p;
    (error > 0 ? high : low) = x;
    const double density = std::exp((a - 1) * std::log(x) + (b - 1) * std::log1p(-x) - log_beta);
    const double newton = x - error / density;
    // Newton overshoots near the ends, where the density is steep: bisect there
    const double after = low < newton && newton < high ? newton : 0.5 * (low + high);
    if (std::fabs(after - x) <= 1e-15 * x) return after;
    x = after;
  }
  return x;
}

}  // namespace dit_deploy::sampling
