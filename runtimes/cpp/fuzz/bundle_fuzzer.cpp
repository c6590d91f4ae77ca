// libFuzzer on everything that reads the untrusted bytes of a bundle:
//
//   cmake -S . -B build/fuzz -DDIT_DEPLOY_FUZZ=ON -DDIT_DEPLOY_SANITIZE=address -DCMAKE_CXX_COMPILER=clang++
//   cmake --build build/fuzz
//   build/fuzz/bundle_fuzzer -dict=fuzz/bundle.dict -max_total_time=60 build/corpus fuzz/corpus
#include <cstddef>
#include <cstdint>

#include "one_input.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  dit_deploy::fuzz::one_input({reinterpret_cast<const char*>(data), size});
  return 0;
}
