#include "runtime/finite.h"

#include <cstdint>
#include <cstring>

#include "dit_deploy/errors.hpp"

namespace dit_deploy::runtime {

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

void check_finite(const float* values, std::size_t count, const std::string& what, const std::string& when) {
  if (all_finite(values, count)) return;
  throw NotFiniteError(what + " NaN or infinite values" + when +
                       "; a precision too small for this model is the usual cause: use a wider one, or run "
                       "`dit-deploy parity` to see where it begins");
}

}  // namespace dit_deploy::runtime
