// What the choice of an engine says, for tests/runtimes/cpp/test_choose_twins.py: reads a JSON document a line, writes one.
//
//   {"record": {…}, "machine": {…}}                      → {"unfit": "…"}
//   {"bundle": "…", "engine": "auto", "machine": {…}}    → {"name": "…", "reason": "…"}, or {"error": "InputError: …"}
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "bundle/bundle.h"
#include "dit_deploy/errors.hpp"
#include "runtime/choose.h"

using nlohmann::json;
using namespace dit_deploy;

namespace {

runtime::Machine read_machine(const json& value) {
  runtime::Machine machine;
  value.at("compute_capabilities").get_to(machine.compute_capabilities);
  value.at("gpu_note").get_to(machine.gpu_note);
  value.at("versions").get_to(machine.versions);
  value.at("providers").get_to(machine.providers);
  value.at("cpu_ops_note").get_to(machine.cpu_ops_note);
  return machine;
}

json answer(const json& question) {
  const runtime::Machine machine = read_machine(question.at("machine"));
  if (question.contains("record")) {
    const std::string record = question.at("record").dump();
    return {{"unfit", runtime::unfit(bundle::parse_engine(record, "engine.json"), machine)}};
  }
  try {
    const auto opened = bundle::Bundle::open(question.at("bundle").get<std::string>());
    const runtime::Choice choice = runtime::choose_engine(opened, question.at("engine"), [&](bool) { return machine; });
    return {{"name", choice.name}, {"reason", choice.reason}};
  } catch (const InputError& error) {
    return {{"error", "InputError: " + std::string(error.what())}};
  } catch (const IntegrityError& error) {
    return {{"error", "IntegrityError: " + std::string(error.what())}};
  } catch (const BundleError& error) {
    return {{"error", "BundleError: " + std::string(error.what())}};
  }
}

}  // namespace

int main() {
  std::string line;
  while (std::getline(std::cin, line)) std::cout << answer(json::parse(line)).dump() << std::endl;
}
