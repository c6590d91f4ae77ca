#include "sampling/noise.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "dit_deploy/errors.hpp"

namespace dit_deploy::sampling {

namespace {

constexpr std::size_t kBlock = 16;
constexpr std::size_t kHalf = 8;
constexpr std::size_t kChunk = 32 * kBlock;  // words that are made at once
constexpr double kTwoPi = 6.283185307179586;

// The logarithm, sine and cosine are those of dit_deploy/sampling/elementary.py, operation by operation: a seed gives the
// same bits as in Python, on every machine. Compilers make vector code of a loop over them, where the C library's take one
// number at a time. All are within 2 units in the last place for the arguments that occur.

inline std::uint32_t bits_of(float value) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float from_bits(std::uint32_t bits) {
  float value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// For 2⁻²⁴ ≤ x ≤ 1.
inline float logarithm(float x) {
  // x = 2^exponent · (1 + f) with 1 + f in √½ … √2
  const std::uint32_t shifted = bits_of(x) - 0x3f3504f3U;
  const auto exponent = static_cast<float>(static_cast<std::int32_t>(shifted) >> 23);
  const float f = from_bits((shifted & 0x007fffffU) + 0x3f3504f3U) - 1;
  // Cephes' logf
  float p = 7.0376836292e-2F;
  p = p * f - 1.1514610310e-1F;
  p = p * f + 1.1676998740e-1F;
  p = p * f - 1.2420140846e-1F;
  p = p * f + 1.4249322787e-1F;
  p = p * f - 1.6668057665e-1F;
  p = p * f + 2.0000714765e-1F;
  p = p * f - 2.4999993993e-1F;
  p = p * f + 3.3333331174e-1F;
  const float square = f * f;
  const float tail = p * square * f + exponent * -2.12194440e-4F - 0.5F * square;
  return (f + tail) + exponent * 0.693359375F;
}

// For 0 ≤ angle ≤ 2π.
inline void sine_cosine(float angle, float& sine_out, float& cosine_out) {
  // angle = quarter · π/2 + rest, with π/2 in three parts of which the first ones are multiplied exactly
  const auto quarter = static_cast<std::int32_t>(angle * 0.636619772F + 0.5F);
  const auto whole = static_cast<float>(quarter);
  const float rest =
      ((angle - whole * 1.5703125F) - whole * 4.837512969970703125e-4F) - whole * 7.54978995489188216e-8F;
  const float square = rest * rest;
  // Cephes' sinf and cosf
  const float sine =
      ((-1.9515295891e-4F * square + 8.3321608736e-3F) * square - 1.6666654611e-1F) * square * rest + rest;
  const float cosine =
      ((2.443315711809948e-5F * square - 1.388731625493765e-3F) * square + 4.166664568298827e-2F) * square * square -
      0.5F * square + 1;
  // by quarters the sine is s, c, −s, −c and the cosine c, −s, −c, s
  const auto turned = static_cast<std::uint32_t>(quarter);
  const std::uint32_t swapped = (bits_of(sine) ^ bits_of(cosine)) & (0U - (turned & 1U));
  sine_out = from_bits(bits_of(sine) ^ swapped ^ (turned & 2U) << 30);
  cosine_out = from_bits(bits_of(cosine) ^ swapped ^ ((turned + 1) & 2U) << 30);
}

// As many normals as words, in blocks of 16, at most kChunk: of a block's words the first eight give the radii, the last
// eight the angles.
void box_muller(const std::uint32_t* words, float* out, std::size_t count) {
  constexpr float kUnit = 5.9604644775390625e-08F;  // 2⁻²⁴
  std::array<std::uint32_t, kChunk / 2> first, second;
  std::array<float, kChunk / 2> radius, sine, cosine;
  const std::size_t blocks = count / kBlock, pairs = count / 2;
  for (std::size_t block = 0; block < blocks; ++block) {
    std::memcpy(first.data() + block * kHalf, words + block * kBlock, kHalf * sizeof *words);
    std::memcpy(second.data() + block * kHalf, words + block * kBlock + kHalf, kHalf * sizeof *words);
  }
  for (std::size_t pair = 0; pair < pairs; ++pair) {
    const auto uniform = static_cast<float>(static_cast<std::int32_t>(first[pair] & 0xffffffU)) * kUnit;
    radius[pair] = -2.0F * logarithm(1 - uniform);
  }
  for (std::size_t pair = 0; pair < pairs; ++pair) radius[pair] = std::sqrt(radius[pair]);
  for (std::size_t pair = 0; pair < pairs; ++pair) {
    const auto uniform = static_cast<float>(static_cast<std::int32_t>(second[pair] & 0xffffffU)) * kUnit;
    float sine_of = 0, cosine_of = 0;
    sine_cosine(static_cast<float>(kTwoPi) * uniform, sine_of, cosine_of);
    sine[pair] = radius[pair] * sine_of;
    cosine[pair] = radius[pair] * cosine_of;
  }
  for (std::size_t block = 0; block < blocks; ++block) {
    std::memcpy(out + block * kBlock, cosine.data() + block * kHalf, kHalf * sizeof *out);
    std::memcpy(out + block * kBlock + kHalf, sine.data() + block * kHalf, kHalf * sizeof *out);
  }
}

inline std::uint32_t twisted(std::uint32_t high, std::uint32_t low) {
  const std::uint32_t mixed = (high & 0x80000000U) | (low & 0x7fffffffU);
  return (mixed >> 1) ^ ((0U - (low & 1U)) & 0x9908b0dfU);
}

inline std::uint32_t tempered(std::uint32_t word) {
  word ^= word >> 11;
  word ^= (word << 7) & 0x9d2c5680U;
  word ^= (word << 15) & 0xefc60000U;
  return word ^ (word >> 18);
}

}  // namespace

// init_genrand of Matsumoto & Nishimura's MT19937
Generator::Generator(std::uint64_t seed) : state_{}, words_{} {
  state_[0] = static_cast<std::uint32_t>(seed & 0xffffffffU);
  for (std::size_t index = 1; index < kWords; ++index) {
    const std::uint32_t before = state_[index - 1];
    state_[index] = 1812433253U * (before ^ (before >> 30)) + static_cast<std::uint32_t>(index);
  }
}

void Generator::draw(float* out, std::size_t count) {
  if (count >= kBlock) {
    draw_blocks(out, count);
  } else {
    draw_scalars(out, count);
  }
}

std::uint32_t Generator::next() {
  if (position_ == kWords) refill();
  return words_[position_++];
}

void Generator::take(std::uint32_t* out, std::size_t count) {
  while (count > 0) {
    if (position_ == kWords) refill();
    const std::size_t some = std::min(count, kWords - position_);
    std::memcpy(out, words_.data() + position_, some * sizeof *out);
    position_ += some;
    out += some;
    count -= some;
  }
}

void Generator::skip(std::size_t count) {
  for (; count > 0; --count) next();
}

void Generator::refill() {
  constexpr std::size_t kShift = 397;
  std::uint32_t* const state = state_.data();
  for (std::size_t index = 0; index < kWords - kShift; ++index) {
    state[index] = state[index + kShift] ^ twisted(state[index], state[index + 1]);
  }
  for (std::size_t index = kWords - kShift; index < kWords - 1; ++index) {
    state[index] = state[index + kShift - kWords] ^ twisted(state[index], state[index + 1]);
  }
  state[kWords - 1] = state[kShift - 1] ^ twisted(state[kWords - 1], state[0]);
  for (std::size_t index = 0; index < kWords; ++index) words_[index] = tempered(state[index]);
  position_ = 0;
}

void Generator::draw_blocks(float* out, std::size_t count) {
  std::array<std::uint32_t, kChunk> words;
  const std::size_t whole = count / kBlock * kBlock;
  for (std::size_t done = 0; done < whole;) {
    const std::size_t some = std::min(kChunk, whole - done);
    take(words.data(), some);
    box_muller(words.data(), out + done, some);
    done += some;
  }
  if (whole == count) return;
  // The words of the incomplete block are used up, and the last 16 elements made again from the 16 that follow.
  skip(count - whole);
  take(words.data(), kBlock);
  box_muller(words.data(), out + count - kBlock, kBlock);
}

void Generator::draw_scalars(float* out, std::size_t count) {
  for (std::size_t index = 0; index < count; ++index) {
    if (kept_) {
      out[index] = static_cast<float>(*kept_);
      kept_.reset();
      continue;
    }
    const auto uniform = [this] {
      const std::uint64_t high = next();
      const std::uint64_t bits = (high << 32 | next()) & ((std::uint64_t{1} << 53) - 1);
      return static_cast<double>(bits) * 0x1p-53;
    };
    const double angle = kTwoPi * uniform();
    const double radius = std::sqrt(-2 * std::log1p(-uniform()));
    out[index] = static_cast<float>(radius * std::cos(angle));
    kept_ = radius * std::sin(angle);
  }
}

NoiseSource::NoiseSource(const std::vector<std::uint64_t>& seeds) {
  if (seeds.empty()) throw InputError("seed: an empty list came, one integer or one a sample was expected");
  generators_.reserve(seeds.size());
  for (const std::uint64_t seed : seeds) generators_.emplace_back(seed);
}

void NoiseSource::draw(float* out, std::size_t batch, std::size_t each) {
  if (generators_.size() == 1) {
    generators_.front().draw(out, batch * each);
    return;
  }
  if (batch != generators_.size()) {
    throw InputError("seed: a list of " + std::to_string(generators_.size()) + " came, one a sample of the batch of " +
                     std::to_string(batch) + " expected");
  }
  for (std::size_t sample = 0; sample < batch; ++sample) generators_[sample].draw(out + sample * each, each);
}

}  // namespace dit_deploy::sampling
