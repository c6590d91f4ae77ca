// Better no picture than a black one: what a backend computed must be finite; runtimes/finite.py.
#pragma once

#include <cstddef>
#include <string>

namespace dit_deploy::runtime {

bool all_finite(const float* values, std::size_t count);

// Throws NotFiniteError "{what} NaN or infinite values{when}; …" where a value is not finite.
void check_finite(const float* values, std::size_t count, const std::string& what, const std::string& when = "");

}  // namespace dit_deploy::runtime
