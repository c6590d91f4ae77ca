#include "bundle/sha256.h"

#include <doctest/doctest.h>

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

}  // namespace dit_deploy::bundle
