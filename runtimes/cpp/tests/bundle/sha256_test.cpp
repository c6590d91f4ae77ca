#include "bundle/sha256.h"

#include <doctest/doctest.h>

#include <random>
#include <vector>

#include "bundle/sha256_x86.h"

namespace dit_deploy::bundle {

TEST_CASE("SHA-256 of the standard's examples, and in pieces of every size") {
  CHECK(sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(sha256(std::string(1'000'000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  const std::string data(200, 'x');
  for (std::size_t step = 1; step < 130; ++step) {
    Sha256 digest;
    for (std::size_t at = 0; at < data.size(); at += step)
      digest.update(data.data() + at, std::min(step, data.size() - at));
    CHECK(digest.hex() == sha256(data));
  }
}

#if defined(DIT_DEPLOY_SHA256_X86)
TEST_CASE("the processor's instructions and the plain code agree") {
  if (!has_sha_instructions()) return;
  std::mt19937 draw(1);
  std::vector<unsigned char> data(64 * 20);
  for (unsigned char& byte : data) byte = static_cast<unsigned char>(draw() % 256);
  std::array<std::uint32_t, 8> plain;
  for (std::uint32_t& word : plain) word = static_cast<std::uint32_t>(draw());
  std::array<std::uint32_t, 8> fast = plain;
  sha256_blocks(plain.data(), data.data(), 20);
  sha256_blocks_x86(fast.data(), data.data(), 20);
  CHECK(plain == fast);
}
#endif

}  // namespace dit_deploy::bundle
