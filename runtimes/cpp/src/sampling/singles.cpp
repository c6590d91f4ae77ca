#include "sampling/singles.h"

#include <cmath>
#include <limits>

namespace dit_deploy::sampling {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Coefficients from the lowest power.
template <std::size_t count>
float polynomial(const float (&coefficients)[count], float x) {
  float value = coefficients[count - 1];
  for (std::size_t power = count - 1; power-- > 0;) value = std::fma(value, x, coefficients[power]);
  return value;
}

}  // namespace

float to_single(double value) {
  // a cast of what no float holds is undefined; half a unit above the largest float rounds to infinity
  constexpr double kBeyond = 3.4028235677973366e38;
  if (value >= kBeyond) return kInfinity;
  if (value <= -kBeyond) return -kInfinity;
  return static_cast<float>(value);
}

float numpy_log(float x) {
  constexpr float kNumerator[] = {0.0F,
                                  9.999999999999998702752e-01F,
                                  2.112677543073053063722e+00F,
                                  1.480000633576506585156e+00F,
                                  3.808837741388407920751e-01F,
                                  2.589979117907922693523e-02F};
  constexpr float kDenominator[] = {1.0F,
                                    2.612677543073109236779e+00F,
                                    2.453006071784736363091e+00F,
                                    9.864942958519418960339e-01F,
                                    1.546476374983906719538e-01F,
                                    5.875095403124574342950e-03F};
  constexpr float kHalfRoot = 0.70710678118654752440F;
  constexpr float kLog2 = 0.693147180559945309417F;
  if (x == 0) return -kInfinity;
  if (!(x > 0) || x == kInfinity) return x > 0 ? x : std::numeric_limits<float>::quiet_NaN();
  int exponent = 0;
  float mantissa = std::frexp(x, &exponent);  // 0.5 … 1
  if (mantissa <= kHalfRoot) {
    mantissa += mantissa;
    exponent -= 1;
  }
  mantissa -= 1;
  const float logarithm = polynomial(kNumerator, mantissa) / polynomial(kDenominator, mantissa);
  return std::fma(static_cast<float>(exponent), kLog2, logarithm);
}

float numpy_exp(float x) {
  constexpr float kNumerator[] = {9.999999999980870924916e-01F, 7.257664613233124478488e-01F,
                                  2.473615434895520810817e-01F, 5.114512081637298353406e-02F,
                                  6.757896990527504603057e-03F, 5.082762527590693718096e-04F};
  constexpr float kDenominator[] = {1.0F, -2.742335390411667452936e-01F, 2.159509375685829852307e-02F};
  constexpr float kLog2High = -6.93145752e-1F;
  constexpr float kLog2Low = -1.42860677e-6F;
  constexpr float kLog2E = 1.442695040888963407359924681001892137F;
  if (std::isnan(x)) return x;
  if (x >= 88.72283935546875F) return kInfinity;
  if (x <= -103.97208404541015625F) return 0;
  const float whole = std::nearbyint(x * kLog2E);
  float rest = std::fma(whole, kLog2High, x);
  rest = std::fma(whole, kLog2Low, rest);
  return std::ldexp(polynomial(kNumerator, rest) / polynomial(kDenominator, rest), static_cast<int>(whole));
}

}  // namespace dit_deploy::sampling
