#include <doctest/doctest.h>

#include <vector>

#include "dit_deploy/errors.hpp"
#include "golden_bundle.h"
#include "runtime/choose.h"
#include "text.h"

namespace dit_deploy::runtime {

TEST_CASE("the machine is asked for when it is needed, and its driver for engines on a GPU only") {
  const auto path = tests::golden_bundle();
  if (!path) return;
  const auto opened = bundle::Bundle::open(*path);
  const auto names = opened.engine_names();
  REQUIRE(names.size() > 1);
  std::vector<bool> asked;
  const auto machine = [&](bool gpus) {
    asked.push_back(gpus);
    return this_machine(gpus, {});
  };
  CHECK(choose_engine(opened, "onnx", machine).reason == "onnx: the plain graphs, as asked");
  const std::string message = "engine: 'fast' came; this bundle has onnx, the plain graphs, and " + join(names);
  CHECK_THROWS_WITH_AS(choose_engine(opened, "fast", machine), message.c_str(), InputError);
  CHECK(asked.empty());
  const Choice best = choose_engine(opened, "auto", machine);
  REQUIRE(best.engine);
  CHECK(best.engine->name() == best.name);
  CHECK(best.engine->record().precision == "int8");
  CHECK(asked == std::vector<bool>{false});  // once for all of them
  CHECK(choose_engine(opened, best.name, machine).reason == best.name + ": as asked");
  CHECK(asked == std::vector<bool>{false, false});
}

}  // namespace dit_deploy::runtime
