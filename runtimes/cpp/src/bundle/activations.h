// How many bytes a graph's values take at once, from the shapes noted in its file; dit_deploy/bundle/activations.py.
//
// What an exporter notes of a value is its type and its axes in terms of the free sizes ("4*latent_height"), so the bytes at
// any size follow without running anything.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "bundle/manifest.h"

namespace dit_deploy::bundle {

// What a graph notes of a value: ONNX's number of the element type, and its axes, expressions where they vary.
struct Noted {
  std::uint64_t element = 0;
  std::vector<std::variant<std::uint64_t, std::string>> axes;

  // The shape for free sizes, as floating-point numbers, for the product may be beyond 64 bits; nothing where an axis is not
  // told by them.
  std::optional<std::vector<double>> shape(const Sizes& sizes) const;
  // How many bytes the value takes; 0 where its shape is not told.
  double bytes(const Sizes& sizes) const;
};

// One node: its operator, the names of its inputs (empty for one left out) and outputs, q_num_heads if any.
struct NotedNode {
  std::string op_type;
  std::vector<std::string> inputs, outputs;
  std::optional<std::uint64_t> heads;
};

// The nodes in their order, names of inputs, outputs and weights, and what is noted of values by name.
struct NotedGraph {
  std::vector<NotedNode> nodes;
  std::vector<std::string> inputs, outputs;
  std::set<std::string> weights;
  std::map<std::string, Noted> values;
};

// The nodes and noted shapes of an ONNX file; weights are stepped over. Throws BundleError where it cannot be read or is no
// well-formed ONNX protobuf.
NotedGraph read_graph(const std::filesystem::path& path);
// The same of bytes; `name` is for messages.
NotedGraph read_graph(std::string_view data, const std::string& name);

// An axis noted as an expression of free sizes, such as "2*patch_height + 1"; nothing for another.
std::optional<std::int64_t> axis_size(std::string_view expression, const Sizes& sizes);

// The most bytes that values take at once when the nodes run in their order; a view costs nothing. `size` is the bytes of a
// value, `workspace` what a node needs besides while it runs.
double peak_bytes(const NotedGraph& graph, const std::function<double(const std::string& value)>& size,
                  const std::function<double(const NotedNode& node)>& workspace);

}  // namespace dit_deploy::bundle
