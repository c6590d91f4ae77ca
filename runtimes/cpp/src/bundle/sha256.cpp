#include "bundle/sha256.h"

#include <algorithm>
#include <cstring>

#include "bundle/sha256_x86.h"

namespace dit_deploy::bundle {

const std::array<std::uint32_t, 64> kSha256Round{
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

namespace {

constexpr std::uint32_t rotate(std::uint32_t value, int count) { return value >> count | value << (32 - count); }

void block(std::uint32_t* state, const unsigned char* data) {
  std::array<std::uint32_t, 64> w;
  for (std::size_t t = 0; t < 16; ++t) {
    w[t] = std::uint32_t{data[4 * t]} << 24 | std::uint32_t{data[4 * t + 1]} << 16 |
           std::uint32_t{data[4 * t + 2]} << 8 | std::uint32_t{data[4 * t + 3]};
  }
  for (std::size_t t = 16; t < 64; ++t) {
    const std::uint32_t s0 = rotate(w[t - 15], 7) ^ rotate(w[t - 15], 18) ^ w[t - 15] >> 3;
    const std::uint32_t s1 = rotate(w[t - 2], 17) ^ rotate(w[t - 2], 19) ^ w[t - 2] >> 10;
    w[t] = w[t - 16] + s0 + w[t - 7] + s1;
  }
  std::uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
  std::uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
  for (std::size_t t = 0; t < 64; ++t) {
    const std::uint32_t s1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
    const std::uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + kSha256Round[t] + w[t];
    const std::uint32_t s0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
    const std::uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
    h = g;
    g = f;
    f = e;
    e = d + t1;
    d = c;
    c = b;
    b = a;
    a = t1 + t2;
  }
  const std::array<std::uint32_t, 8> sum{a, b, c, d, e, f, g, h};
  for (std::size_t index = 0; index < sum.size(); ++index) state[index] += sum[index];
}

}  // namespace

void sha256_blocks(std::uint32_t* state, const unsigned char* data, std::size_t count) {
  for (; count > 0; --count, data += 64) block(state, data);
}

void Sha256::blocks(const unsigned char* data, std::size_t count) {
#if defined(DIT_DEPLOY_SHA256_X86)
  if (has_sha_instructions()) return sha256_blocks_x86(state_.data(), data, count);
#endif
  sha256_blocks(state_.data(), data, count);
}

void Sha256::update(const void* data, std::size_t size) {
  const auto* bytes = static_cast<const unsigned char*>(data);
  size_ += size;
  if (rest_size_ > 0) {
    const std::size_t count = std::min(size, rest_.size() - rest_size_);
    std::memcpy(rest_.data() + rest_size_, bytes, count);
    rest_size_ += count;
    bytes += count;
    size -= count;
    if (rest_size_ < rest_.size()) return;
    blocks(rest_.data(), 1);
    rest_size_ = 0;
  }
  blocks(bytes, size / rest_.size());
  bytes += size - size % rest_.size();
  size %= rest_.size();
  if (size > 0) std::memcpy(rest_.data(), bytes, size);
  rest_size_ = size;
}

std::string Sha256::hex() {
  std::array<unsigned char, 72> end{0x80};
  const std::size_t padding = (rest_size_ < 56 ? 56 : 120) - rest_size_;
  const std::uint64_t bits = size_ * 8;
  for (std::size_t index = 0; index < 8; ++index)
    end[padding + index] = static_cast<unsigned char>(bits >> (56 - 8 * index) & 0xffU);
  update(end.data(), padding + 8);
  std::string text;
  for (const std::uint32_t word : state_) {
    for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[word >> shift & 15U];
  }
  return text;
}

std::string sha256(std::string_view data) {
  Sha256 digest;
  digest.update(data.data(), data.size());
  return digest.hex();
}

}  // namespace dit_deploy::bundle
