// torch's standard-normal noise from a seed; dit_deploy/sampling/noise.py says how torch makes it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace dit_deploy::sampling {

// torch.randn in float32 with a CPU generator: successive draws continue the stream.
class Generator {
 public:
  // As in torch, only the low 32 bits of the seed have an effect.
  explicit Generator(std::uint64_t seed);
  // Writes `count` values, as torch.randn(count, generator=…) would, to within 1e-6; allocates nothing.
  void draw(float* out, std::size_t count);

 private:
  static constexpr std::size_t kWords = 624;

  std::uint32_t next();
  // Copies the next `count` words.
  void take(std::uint32_t* out, std::size_t count);
  void skip(std::size_t count);
  void refill();
  void draw_blocks(float* out, std::size_t count);
  void draw_scalars(float* out, std::size_t count);

  std::array<std::uint32_t, kWords> state_;  // of the Mersenne twister
  std::array<std::uint32_t, kWords> words_;  // what it yields from there
  std::size_t position_ = kWords;            // of the next word
  std::optional<double> kept_;               // the second half of a pair, for the next draw of single values
};

// The noise of one generation, as diffusers' randn_tensor: one generator for the whole batch, or one a sample.
class NoiseSource {
 public:
  // One seed, or one a sample. Throws InputError where there is none.
  explicit NoiseSource(const std::vector<std::uint64_t>& seeds);
  // Whether all samples draw from one generator.
  bool shared() const { return generators_.size() == 1; }
  // Writes the next draw, `batch` × `each` values. Throws InputError where there are several seeds, and not `batch`.
  void draw(float* out, std::size_t batch, std::size_t each);
  // Writes the next draw of `count` values that all samples have in common: the first generator's.
  void draw_for_all(float* out, std::size_t count) { generators_.front().draw(out, count); }

 private:
  std::vector<Generator> generators_;
};

}  // namespace dit_deploy::sampling
