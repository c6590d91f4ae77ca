#include "bundle/activations.h"

#include "bundle/fixtures.h"

namespace dit_deploy::bundle::testing {
namespace {

// A value of a graph as it is noted: an element type, and axes that are numbers or expressions.
std::string noted(const std::string& name, std::uint64_t element,
                  const std::vector<std::variant<std::uint64_t, std::string>>& axes) {
  std::string dimensions;
  for (const auto& axis : axes) {
    const auto* number = std::get_if<std::uint64_t>(&axis);
    dimensions += field(1, number != nullptr ? field(1, *number) : field(2, std::get<std::string>(axis)));
  }
  return field(1, name) + field(2, field(1, field(1, element) + field(2, dimensions)));
}

std::string node(const std::string& op_type, const std::vector<std::string>& inputs,
                 const std::vector<std::string>& outputs) {
  std::string made;
  for (const std::string& one : inputs) made += field(1, one);
  for (const std::string& one : outputs) made += field(2, one);
  return field(1, made + field(4, op_type));
}

// x [batch, 4, 2·side] → Conv with w → y → Reshape → z → Relu → out; heads = 3 in an attribute of the Conv.
std::string small_graph() {
  const std::string heads = field(5, field(1, std::string("q_num_heads")) + field(3, std::uint64_t{3}));
  std::string graph = field(1, field(1, std::string("x")) + field(1, std::string("w")) + field(2, std::string("y")) +
                                   field(4, std::string("Conv")) + heads);
  graph += node("Reshape", {"y", "w"}, {"z"}) + node("Relu", {"z"}, {"out"});
  graph += field(5, field(8, std::string("w")));
  graph += field(11, noted("x", 1, {std::string("batch"), std::uint64_t{4}, std::string("2*side")}));
  graph += field(13, noted("y", 1, {std::string("batch"), std::uint64_t{8}, std::string("2*side")}));
  graph += field(13, noted("z", 1, {std::string("batch"), std::string("16*side")}));
  graph += field(12, noted("out", 9, {std::string("batch"), std::string("16*side")}));
  return field(7, graph);
}

double peak_of(const std::string& data, const Sizes& sizes) {
  const NotedGraph graph = read_graph(data, "m");
  return peak_bytes(
      graph, [&](const std::string& value) { return graph.values.at(value).bytes(sizes); },
      [](const NotedNode& one) { return one.op_type == "Relu" ? 1000.0 : 0.0; });
}

TEST_CASE("what a graph notes is read, and weights are stepped over") {
  const NotedGraph graph = read_graph(small_graph(), "m");
  REQUIRE(graph.nodes.size() == 3);
  CHECK(graph.nodes[0].op_type == "Conv");
  CHECK(graph.nodes[0].inputs == std::vector<std::string>{"x", "w"});
  CHECK(graph.nodes[0].heads == 3);
  CHECK(!graph.nodes[1].heads);
  CHECK(graph.weights == std::set<std::string>{"w"});
  CHECK(graph.inputs == std::vector<std::string>{"x"});
  CHECK(graph.outputs == std::vector<std::string>{"out"});
  const Sizes sizes{{"batch", 2}, {"side", 5}};
  CHECK(graph.values.at("x").shape(sizes) == std::vector<double>{2, 4, 10});
  CHECK(graph.values.at("x").bytes(sizes) == 4 * 80);
  CHECK(graph.values.at("out").bytes(sizes) == 160);  // bool
  CHECK(!graph.values.at("x").shape({{"batch", 2}}));
}

TEST_CASE("what lives at once is counted, views are not") {
  // x 80 floats and y 160, which z is a view of; then out, 160 bytes, and the workspace of Relu. x stays: it is the caller's.
  CHECK(peak_of(small_graph(), {{"batch", 2}, {"side", 5}}) == 320 + 640 + 160 + 1000);
  // Views of themselves and of each other end.
  const std::string circle = node("Identity", {"a"}, {"b"}) + node("Identity", {"b"}, {"a"}) +
                             node("Reshape", {}, {"c"}) + node("Identity", {"d"}, {"d"});
  std::string values;
  for (const char* name : {"a", "b", "c", "d"}) values += field(13, noted(name, 7, {std::uint64_t{1}}));
  CHECK(peak_of(field(7, circle + values), {}) > 0);
}

TEST_CASE("axes are sums and products of free sizes") {
  const Sizes sizes{{"a", 7}, {"b_2", 3}};
  const std::pair<const char*, std::optional<std::int64_t>> expressions[] = {
      {"a", 7},
      {"0", 0},
      {" 2*a + 1", 15},
      {"a - b_2 - 1", 3},
      {"a*(b_2 + 1)//2", 14},
      {"(0 - a)//b_2", -3},
      {"2*(a - (b_2))*1", 8},
      {"a//0", std::nullopt},
      {"c", std::nullopt},
      {"", std::nullopt},
      {"a b_2", std::nullopt},
      {"(a", std::nullopt},
      {"a)", std::nullopt},
      {"a/2", std::nullopt},
      {"a**2", std::nullopt},
      {"-a", std::nullopt},
      {"2a", std::nullopt},
      {"07", std::nullopt},
      {"9223372036854775807 + a", std::nullopt},
      {"9223372036854775807*a", std::nullopt},
      {"99999999999999999999", std::nullopt},
  };
  for (const auto& one : expressions) {
    INFO(one.first);
    CHECK(axis_size(one.first, sizes) == one.second);
  }
  CHECK(!axis_size(std::string(100000, '('), sizes));
}

TEST_CASE("every shortened and every changed graph is read or refused") {
  const std::string good = small_graph();
  for (std::size_t at = 0; at < good.size(); ++at) {
    for (const char byte : {'\x00', '\x7f', '\xff', '\x3a'}) {
      std::string data = good;
      data[at] = byte;
      for (const std::string& one : {data, good.substr(0, at)}) {
        try {
          read_graph(one, "m");
        } catch (const BundleError&) {}
      }
    }
  }
  CHECK(has(refusal([] { read_graph("", "m"); }), "m is no ONNX file: it is empty"));
  CHECK(has(refusal([] { read_graph("\x08\x07", "m"); }), "it holds no graph"));
}

}  // namespace
}  // namespace dit_deploy::bundle::testing
