// Better no picture than a black one: what a backend computed must be finite; runtimes/finite.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace dit_deploy::runtime {

bool all_finite(const float* values, std::size_t count);

// Throws NotFiniteError "{what} NaN or infinite values; …" where a value is not finite.
void check_finite(const float* values, std::size_t count, const char* what);
// The same for the sample after an inference step. Allocates nothing where all is well.
void check_latents(const float* values, std::size_t count, std::int64_t step, std::int64_t num_steps);

// "after step 3 of 50", where `step` counts from 0.
std::string after_step(std::int64_t step, std::int64_t num_steps);

}  // namespace dit_deploy::runtime
