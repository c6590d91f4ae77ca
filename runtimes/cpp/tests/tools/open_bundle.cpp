// Opens a bundle or an engine and prints the verdict, for tests/runtimes/cpp/test_bundle_twins.py to hold against
// Python's: "ok", or "InputError: message".
//
//   open_bundle              reads lines of "open PATH", "engine NAME PATH", "verify PATH", "scheduler PATH"; each
//                            answer is lines that end with an empty one
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "bundle/bundle.h"

namespace {

using namespace dit_deploy;

const char* name_of(const Error& error) {
  if (dynamic_cast<const IntegrityError*>(&error) != nullptr) return "IntegrityError";
  if (dynamic_cast<const BundleError*>(&error) != nullptr) return "BundleError";
  return dynamic_cast<const InputError*>(&error) != nullptr ? "InputError" : "another error";
}

// Does everything that a runtime does before it opens a graph.
void use(const bundle::Bundle& opened) {
  opened.scheduler_config();
  for (const auto& [name, component] : opened.manifest().components) opened.component_path(name);
  bundle::solver_component(opened.manifest());
}

void answer(const std::string& line) {
  std::istringstream words(line);
  std::string what, name, path;
  words >> what;
  if (what == "engine") words >> name;
  std::getline(words >> std::ws, path);
  if (what == "verify") {
    for (const std::string& problem : bundle::verify(path)) std::cout << problem << "\n";
    return;
  }
  const bundle::Bundle opened = bundle::Bundle::open(path);
  if (what == "use") use(opened);
  if (what == "engine") {
    const bundle::Engine engine = opened.engine(name);
    for (const auto& [component, built] : engine.record().components) engine.check(component);
  }
  std::cout << "ok\n";
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    try {
      answer(line);
    } catch (const Error& error) {
      std::cout << name_of(error) << ": " << error.what() << "\n";
    }
    std::cout << std::endl;
  }
}
