// Links the installed library, and catches its exceptions across the border of the library.
#include <dit_deploy/pipeline.hpp>

#include <cstdio>

int main() {
  try {
    dit_deploy::Pipeline::open("no-such-bundle");
  } catch (const dit_deploy::BundleError& error) {
    std::printf("dit_deploy %s: %s\n", dit_deploy::version(), error.what());
    return 0;
  }
  return 1;
}
