#include "runtime/finite.h"

#include <cstring>

#include "dit_deploy/errors.hpp"

namespace dit_deploy::runtime {
namespace {

[[noreturn]] void refuse(const char* what, const std::string& when = "") {
  throw NotFiniteError(what + std::string(" NaN or infinite values") + when +
                       "; a precision too small for this model is the usual cause: use a wider one, or run "
                       "`dit-deploy parity` to see where it begins");
}

}  // namespace

bool all_finite(const float* values, std::size_t count) {
  // An exponent of all ones; written on bits, so that no compiler's flag for fast mathematics can remove it.
  constexpr std::uint32_t kExponent = 0x7F800000u;
  std::uint32_t found = 0;
  for (std::size_t i = 0; i < count; ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, &values[i], sizeof bits);
    found |= static_cast<std::uint32_t>((bits & kExponent) == kExponent);
  }
  return found == 0;
}

void check_finite(const float* values, std::size_t count, const char* what) {
  if (!all_finite(values, count)) refuse(what);
}

void check_latents(const float* values, std::size_t count, std::int64_t step, std::int64_t num_steps) {
  if (!all_finite(values, count)) refuse("the latents hold", " " + after_step(step, num_steps));
}

std::string after_step(std::int64_t step, std::int64_t num_steps) {
  return "after step " + std::to_string(step + 1) + " of " + std::to_string(num_steps);
}

}  // namespace dit_deploy::runtime
