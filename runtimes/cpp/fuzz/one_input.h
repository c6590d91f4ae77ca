// What the fuzzer and the test of its corpus do with one input: the first byte says what the others are.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "bundle/activations.h"
#include "bundle/engine.h"
#include "bundle/json.h"
#include "bundle/manifest.h"
#include "bundle/references.h"
#include "dit_deploy/errors.hpp"
#include "sampling/schedulers.h"
#include "tokenizer/tokenizer.h"

namespace dit_deploy::fuzz {

// Whatever the bytes are: a result, or a dit_deploy::Error. Anything else is a fault.
inline void one_input(std::string_view data) {
  if (data.size() < 2) return;
  const std::string_view rest = data.substr(2);
  try {
    switch (data[0]) {
      case 'm':  // manifest.json
        bundle::solver_component(bundle::parse_manifest(rest, "manifest.json"));
        break;
      case 'e':  // engine.json
        bundle::parse_engine(rest, "engine.json");
        break;
      case 'o': {  // a graph
        bundle::read_references(rest, "model.onnx");
        const bundle::NotedGraph graph = bundle::read_graph(rest, "model.onnx");
        const bundle::Sizes sizes{{"batch", 1}, {"latent_height", 8}, {"latent_width", 8}};
        const auto bytes = [&](const std::string& value) {
          const auto found = graph.values.find(value);
          return found == graph.values.end() ? 0.0 : found->second.bytes(sizes);
        };
        bundle::peak_bytes(graph, bytes, [](const bundle::NotedNode&) { return 0.0; });
        break;
      }
      case 's': {  // a scheduler config; the second byte is the number of steps
        sampling::SolverRequest request;
        request.num_inference_steps = static_cast<unsigned char>(data[1]) % 32;
        sampling::solver_table(bundle::read_object(rest, "scheduler_config.json", true), request);
        break;
      }
      case 't': {  // tokenizer.json; the second byte is the length of a text
        constexpr std::string_view kText = "a cat, CAFÉ e\u0301 12 <s>x</s>\n  ▁猫🙂 it's";
        const std::size_t length = static_cast<unsigned char>(data[1]) % (kText.size() + 1);
        tokenizer::Tokenizer(rest, "tokenizer.json").encode({std::string(kText.substr(0, length)), std::string(kText)});
        break;
      }
      default:
        bundle::value_text(nlohmann::ordered_json(bundle::read_json(rest, "x.json", true)));
    }
  } catch (const Error&) {}
}

}  // namespace dit_deploy::fuzz
