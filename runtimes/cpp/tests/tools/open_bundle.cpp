// Opens bundles and engines and prints the verdicts, for tests/runtimes/cpp to hold against Python's. Each line that comes is a
// JSON object: "do" (open, use, engine, component, verify, references, pieces), "path", and "name" of an engine or component.
// Each answer is a line with a JSON list: ["ok", …], or ["InputError: message"].
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "bundle/bundle.h"
#include "bundle/json.h"
#include "bundle/references.h"
#include "runtime/autoencoder.h"
#include "runtime/memory.h"

namespace {

using namespace dit_deploy;
using nlohmann::json;

const char* name_of(const Error& error) {
  if (dynamic_cast<const IntegrityError*>(&error) != nullptr) return "IntegrityError";
  if (dynamic_cast<const BundleError*>(&error) != nullptr) return "BundleError";
  return dynamic_cast<const InputError*>(&error) != nullptr ? "InputError" : "another error";
}

json references(const std::string& path) {
  json list = json::array({"ok"});
  const bundle::References found = bundle::read_references(std::filesystem::u8path(path));
  for (const bundle::ExternalData& one : found.tensors)
    list.push_back(json::array({one.tensor, one.location, one.offset, one.length}));
  for (const std::string& one : found.contexts) list.push_back(one);
  return list;
}

// The VAE's pieces for "memory", latents of "size", and "encoded" pictures to start from: [tile, stride] along height, width
// and frames.
json pieces(const bundle::Bundle& opened, const json& question) {
  runtime::VaeMemory memory(opened, runtime::read_bytes(question.at("memory")));
  const runtime::Pieces found = memory.pieces_within(
      question.at("size"), runtime::pieces_of(opened.manifest(), Request{}), question.value("encoded", 0));
  json list = json::array({"ok"});
  for (const auto& span : {found.height, found.width, found.frames})
    list.push_back(span ? json::array({span->tile, span->stride}) : json());
  list.push_back(found.samples.value_or(0));
  return list;
}

json answer(const json& question) {
  const std::string what = question.at("do"), path = question.at("path"), name = question.value("name", "");
  if (what == "verify") return bundle::verify(std::filesystem::u8path(path));
  if (what == "references") return references(path);
  const bundle::Bundle opened = bundle::Bundle::open(std::filesystem::u8path(path));
  if (what == "use") {  // everything that a runtime reads before it opens a graph
    opened.scheduler_config();
    for (const auto& [key, component] : opened.manifest().components) opened.component_path(key);
    bundle::solver_component(opened.manifest());
  }
  if (what == "pieces") return pieces(opened, question);
  if (what == "component") opened.check(name);
  if (what == "engine") {
    const bundle::Engine engine = opened.engine(name);
    for (const auto& [component, built] : engine.record().components) engine.check(component);
  }
  return json::array({"ok"});
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    json found;
    try {
      found = answer(json::parse(line));
    } catch (const Error& error) {
      found = json::array({std::string(name_of(error)) + ": " + error.what()});
    }
    std::cout << found.dump(-1, ' ', true, json::error_handler_t::replace) << std::endl;
  }
}
