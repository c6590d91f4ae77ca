// torch's standard-normal noise from a seed; dit_deploy/sampling/noise.py.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace dit_deploy::sampling {

// torch.randn in float32 with a CPU generator: successive draws continue the stream.
class Generator {
 public:
  explicit Generator(std::uint64_t seed);
  // Writes `count` values, as torch.randn(count, generator=…) would; allocates nothing.
  void draw(float* out, std::size_t count);

 private:
  std::uint32_t next();
  void refill();

  std::array<std::uint32_t, 624> state_;
  std::size_t position_;
};

// The noise of one generation, as diffusers' randn_tensor: one generator for the whole batch, or one a sample.
class NoiseSource {
 public:
  // One seed, or one a sample.
  explicit NoiseSource(const std::vector<std::uint64_t>& seeds);
  // Writes the next draw, `batch` × `each` values. Throws InputError where there are several seeds, and not `batch`.
  void draw(float* out, std::size_t batch, std::size_t each);

 private:
  std::vector<Generator> generators_;
};

}  // namespace dit_deploy::sampling
