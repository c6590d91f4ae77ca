// SHA-256 (FIPS 180-4).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace dit_deploy::bundle {

// The constants of the 64 rounds.
extern const std::array<std::uint32_t, 64> kSha256Round;
// Adds `count` blocks of 64 bytes to the state, on any processor.
void sha256_blocks(std::uint32_t* state, const unsigned char* data, std::size_t count);

class Sha256 {
 public:
  void update(const void* data, std::size_t size);
  // The digest of what came, in hexadecimal; the object is done with then.
  std::string hex();

 private:
  void blocks(const unsigned char* data, std::size_t count);

  std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<unsigned char, 64> rest_{};
  std::size_t rest_size_ = 0;
  std::uint64_t size_ = 0;
};

std::string sha256(std::string_view data);

}  // namespace dit_deploy::bundle
