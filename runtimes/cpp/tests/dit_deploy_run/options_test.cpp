// The command line: what is read, and what is said about what cannot be.
#include "dit_deploy_run/options.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

using dit_deploy::run::Arguments;
using dit_deploy::run::parse;
using dit_deploy::run::UsageError;

namespace {

std::string refused(const std::vector<std::string>& words) {
  try {
    parse(words);
  } catch (const dit_deploy::InputError& error) {
    return error.what();
  }
  return "not refused";
}

}  // namespace

TEST_CASE("words, in any order and both forms") {
  const Arguments arguments = parse({"--class-label", "3", "bundle", "--class-label=Ankle boot", "--steps=+7",
                                     "out.png", "--guidance-interval", "0.25", "1e0", "--guidance-apart", "--seed",
                                     "18446744073709551615", "--eta", "-.5", "--provider-library", "A=/x=y", "--grid"});
  CHECK(arguments.bundle == "bundle");
  CHECK(arguments.out == "out.png");
  CHECK(arguments.class_label == std::vector<std::string>{"3", "Ankle boot"});
  CHECK(arguments.steps == 7);
  CHECK(arguments.guidance_interval == std::pair<double, double>{0.25, 1.0});
  CHECK_FALSE(arguments.guidance_batched);
  CHECK(arguments.seed == std::vector<std::uint64_t>{18446744073709551615U});
  CHECK(arguments.eta == -0.5);
  CHECK(arguments.provider_library.at("A") == "/x=y");
  CHECK(arguments.grid);
  CHECK_FALSE(arguments.overwrite);
}

TEST_CASE("the last one counts, and -- ends the options") {
  CHECK(parse({"--eta", "1", "--eta", "0.5", "--guidance-apart", "--guidance-batched", "--", "-b", "--o"}).eta == 0.5);
  CHECK(parse({"--", "-b", "--o"}).out == "--o");
}

TEST_CASE("one place is enough for --verify, none for --help") {
  CHECK(parse({"--verify", "bundle"}).bundle == "bundle");
  CHECK(parse({"-h"}).help);
  CHECK(parse({"--version"}).version);
}

TEST_CASE("what cannot be read") {
  const std::string see = " See `dit-deploy-run --help`.";
  CHECK(refused({}) == "Missing argument 'BUNDLE'." + see);
  CHECK(refused({"b"}) == "Missing argument 'OUT'." + see);
  CHECK(refused({"b", "o", "c"}) == "Got unexpected extra argument (c)." + see);
  CHECK(refused({"--verify", "b", "o"}) == "Got unexpected extra argument (o)." + see);
  CHECK(refused({"--style", "x"}) == "No such option: --style." + see);
  CHECK(refused({"b", "o", "--steps"}) == "Option '--steps' requires an argument." + see);
  CHECK(refused({"b", "o", "--guidance-interval", "1"}) == "Option '--guidance-interval' requires 2 arguments." + see);
  CHECK(refused({"--grid=1"}) == "Option '--grid' does not take a value." + see);
  CHECK(refused({"--steps", "2.5"}) == "Invalid value for '--steps': '2.5' is not a valid integer." + see);
  CHECK(refused({"--steps", "99999999999999999999"}) ==
        "Invalid value for '--steps': '99999999999999999999' is not a valid integer." + see);
  CHECK(refused({"--eta", "1,5"}) == "Invalid value for '--eta': '1,5' is not a valid float." + see);
  CHECK(refused({"--threads", "0"}) == "Invalid value for '--threads': 0 is not in the range x>=1." + see);
  CHECK(refused({"--columns", "-2"}) == "Invalid value for '--columns': -2 is not in the range x>=1." + see);
  CHECK(refused({"--seed", "x"}) == "Invalid value for '--seed': 'x' is not a valid integer." + see);
  CHECK(refused({"--seed", "-1"}) == "seed: -1 came, 0 <= seed < 2**64 was expected");
  CHECK(refused({"--seed", "18446744073709551616"}) ==
        "seed: 18446744073709551616 came, 0 <= seed < 2**64 was expected");
  CHECK(refused({"--provider-library", "path.so"}) ==
        "Invalid value for '--provider-library': 'path.so' is not NAME=PATH." + see);
}
