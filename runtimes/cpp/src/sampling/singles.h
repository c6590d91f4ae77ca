// Single-precision arithmetic as numpy does it.
#pragma once

namespace dit_deploy::sampling {

// The nearest float, infinite where it is too large for one.
float to_single(double value);

// numpy's float32 log and exp on x86-64 (AVX2 and AVX-512 alike): rational functions that are off by up to 4 units in
// the last place. diffusers' schedules are made of them, so a better rounded value would be another timestep.
float numpy_log(float x);
float numpy_exp(float x);

}  // namespace dit_deploy::sampling
