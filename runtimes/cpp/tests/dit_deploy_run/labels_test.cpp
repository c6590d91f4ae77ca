// Class labels by number and name, and the names that are proposed.
#include "dit_deploy_run/labels.h"

#include <doctest/doctest.h>

#include <map>
#include <string>

#include "dit_deploy/errors.hpp"

using dit_deploy::run::class_indices;
using dit_deploy::run::likeness;

namespace {

const std::map<std::int64_t, std::string> kLabels = {
    {3, "Crane"}, {5, "crane"}, {7, "tench, Tinca tinca"}, {8, "Ankle  boot"}};

std::string refused(const std::string& text, const std::map<std::int64_t, std::string>& labels = kLabels) {
  try {
    class_indices({text}, labels);
  } catch (const dit_deploy::InputError& error) {
    return error.what();
  }
  return "not refused";
}

}  // namespace

TEST_CASE("numbers and names") {
  CHECK(class_indices({"12", "+3", "-1", "ANKLE boot ", "tinca  Tinca", "tench, tinca tinca"}, kLabels) ==
        std::vector<std::int64_t>{12, 3, -1, 8, 7, 7});
}

TEST_CASE("names that are none, or several") {
  CHECK(refused("crane") == "--class-label 'crane' names several classes: 3, 5; give the number");
  CHECK(refused("boot") == "--class-label 'boot' is no class of this bundle; did you mean 'ankle boot'?");
  CHECK(refused("ankel boot") == "--class-label 'ankel boot' is no class of this bundle; did you mean 'ankle boot'?");
  CHECK(
      refused("zzzz") ==
      "--class-label 'zzzz' is no class of this bundle; it has 'crane', 'tench, tinca tinca', 'tench', 'tinca tinca', "
      "'ankle boot'");
  CHECK(refused("boot", {}) == "--class-label 'boot': this bundle has no names for its classes; give a number");
}

TEST_CASE("likeness is that of Python's difflib") {
  CHECK(likeness("ankle boot", "ankel boot") == doctest::Approx(0.9));
  CHECK(likeness("abcd", "bcde") == doctest::Approx(0.75));
  CHECK(likeness("sandal", "snadal") == doctest::Approx(0.8333333333333334));
  CHECK(likeness("", "") == 1.0);
  CHECK(likeness("a", "") == 0.0);
}
