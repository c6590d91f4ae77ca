// The fuzzer's corpus, and small changes to it, where there is no libFuzzer.
#include <random>

#include "../../fuzz/one_input.h"
#include "bundle/fixtures.h"

namespace dit_deploy::bundle::testing {
namespace {

TEST_CASE("every input of the corpus, changed in a few places, is read or refused") {
  const fs::path corpus = fs::path(DIT_DEPLOY_TEST_DATA).parent_path() / "fuzz/corpus";
  std::mt19937 draw(1);
  std::size_t count = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(corpus)) {
    std::ifstream stream(entry.path(), std::ios::binary);
    const std::string data((std::istreambuf_iterator<char>(stream)), {});
    INFO(entry.path().string());
    REQUIRE(data.size() > 2);
    fuzz::one_input(data);
    for (int turn = 0; turn < 100; ++turn) {
      std::string changed = data;
      for (int change = 0; change < 2; ++change) {
        const std::size_t at = 2 + draw() % (changed.size() - 2);
        changed[at] = static_cast<char>(draw() % 256);
      }
      fuzz::one_input(changed);
      fuzz::one_input(std::string_view(data).substr(0, draw() % data.size()));
    }
    ++count;
  }
  CHECK(count > 10);
}

}  // namespace
}  // namespace dit_deploy::bundle::testing
