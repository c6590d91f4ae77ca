// The test program; what was skipped makes it exit with 77, which CTest shows as skipped.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <string>
#include <vector>

#include "skip.h"

namespace dit_deploy::tests {

namespace {

std::vector<std::string>& skipped() {
  static std::vector<std::string> messages;
  return messages;
}

}  // namespace

void skip(const std::string& message) {
  std::printf("SKIPPED: %s\n", message.c_str());
  std::fflush(stdout);
  skipped().push_back(message);
}

}  // namespace dit_deploy::tests

int main(int argc, char** argv) {
  doctest::Context context;
  context.setOption("no-intro", true);
  context.applyCommandLine(argc, argv);
  const int status = context.run();
  constexpr int kSkipped = 77;
  return status == 0 && !dit_deploy::tests::skipped().empty() ? kSkipped : status;
}
