#include "bundle/activations.h"

#include <algorithm>
#include <charconv>

#include "bundle/protobuf.h"

namespace dit_deploy::bundle {
namespace {

constexpr double kFloat = 4;  // bytes of a floating-point activation
constexpr int kDepth = 100;   // of parentheses in each other

// Nodes whose output is the memory of their input.
bool is_view(const NotedNode& node) {
  const std::string& name = node.op_type;
  return (name == "Reshape" || name == "Squeeze" || name == "Unsqueeze" || name == "Flatten" || name == "Identity") &&
         !node.inputs.empty() && !node.outputs.empty();
}

// Bytes of an element by ONNX's number of its type.
double element_bytes(std::uint64_t element) {
  switch (element) {
    case 2:  // uint8, int8, bool
    case 3:
    case 9:
      return 1;
    case 4:  // uint16, int16
    case 5:
      return 2;
    case 7:  // int64, uint64
    case 13:
      return 8;
    default:  // int32, uint32; floating-point ones, whichever type the graph is computed in
      return kFloat;
  }
}

// Whole numbers and free sizes, joined by +, -, * and //, as Python reads them. Nothing where there is more to it.
class Expression {
 public:
  Expression(std::string_view text, const Sizes& sizes) : text_(text), sizes_(sizes) {}

  std::optional<std::int64_t> value() {
    const auto found = sum();
    blanks();
    return text_.empty() ? found : std::nullopt;
  }

 private:
  using Value = std::optional<std::int64_t>;

  void blanks() { text_.remove_prefix(std::min(text_.find_first_not_of(" \t"), text_.size())); }
  bool takes(std::string_view sign) {
    blanks();
    if (text_.substr(0, sign.size()) != sign) return false;
    text_.remove_prefix(sign.size());
    return true;
  }
  std::string_view take_while(std::string_view letters) {
    const std::string_view word = text_.substr(0, std::min(text_.find_first_not_of(letters), text_.size()));
    text_.remove_prefix(word.size());
    return word;
  }

  Value sum() {
    Value left = product();
    while (left) {
      const bool adds = takes("+");
      if (!adds && !takes("-")) break;
      const Value right = product();
      std::int64_t made = 0;
      if (!right ||
          (adds ? __builtin_add_overflow(*left, *right, &made) : __builtin_sub_overflow(*left, *right, &made)))
        return std::nullopt;
      left = made;
    }
    return left;
  }

  Value product() {
    Value left = factor();
    while (left) {
      if (takes("//")) {
        const Value right = factor();
        // -1 has the one quotient that may not fit
        if (!right || *right == 0 || *right == -1) return std::nullopt;
        left = *left / *right - (*left % *right != 0 && (*left < 0) != (*right < 0) ? 1 : 0);  // downwards
      } else if (takes("*")) {
        const Value right = factor();
        std::int64_t made = 0;
        if (!right || __builtin_mul_overflow(*left, *right, &made)) return std::nullopt;
        left = made;
      } else {
        break;
      }
    }
    return left;
  }

  Value factor() {
    constexpr std::string_view kDigits = "0123456789";
    constexpr std::string_view kLetters = "0123456789_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    if (takes("(")) {
      if (++depth_ > kDepth) return std::nullopt;
      const Value inside = sum();
      --depth_;
      return takes(")") ? inside : std::nullopt;
    }
    const std::string_view word = take_while(kLetters);
    if (word.empty()) return std::nullopt;
    if (kDigits.find(word[0]) == std::string_view::npos) {
      const auto found = sizes_.find(std::string(word));
      return found == sizes_.end() ? std::nullopt : Value(found->second);
    }
    std::int64_t number = 0;
    const auto [end, failed] = std::from_chars(word.data(), word.data() + word.size(), number);
    const bool whole = failed == std::errc() && end == word.data() + word.size() && (word[0] != '0' || number == 0);
    return whole ? Value(number) : std::nullopt;
  }

  std::string_view text_;
  const Sizes& sizes_;
  int depth_ = 0;
};

// Reads one graph; field numbers: onnx/onnx.proto3 in onnx/onnx.
class GraphReader {
 public:
  explicit GraphReader(Bytes& bytes) : bytes_(bytes) {}

  NotedGraph read() {
    Field field;
    for (Cursor cursor(bytes_, 0, bytes_.size()); cursor.next(field);) {
      if (field.is(7, 2)) return graph(field);
    }
    malformed("it holds no graph");
  }

 private:
  NotedGraph graph(const Field& span) {
    NotedGraph found;
    Field field;
    for (Cursor cursor(bytes_, span.start, span.end); cursor.next(field);) {
      if (field.wire != 2) continue;
      if (field.number == 1) {
        found.nodes.push_back(node(field));
      } else if (field.number == 5) {
        found.weights.insert(text_in(field, 8));
      } else if (field.number >= 11 && field.number <= 13) {
        const std::string name = text_in(field, 1);
        found.values[name] = noted(field);
        if (field.number != 13) (field.number == 11 ? found.inputs : found.outputs).push_back(name);
      }
    }
    return found;
  }

  NotedNode node(const Field& span) {
    NotedNode found;
    Field field, inner;
    for (Cursor cursor(bytes_, span.start, span.end); cursor.next(field);) {
      if (field.is(1, 2)) found.inputs.push_back(bytes_.text(field.start, field.end));
      if (field.is(2, 2)) found.outputs.push_back(bytes_.text(field.start, field.end));
      if (field.is(4, 2)) found.op_type = bytes_.text(field.start, field.end);
      if (!field.is(5, 2) || text_in(field, 1) != "q_num_heads") continue;
      found.heads.reset();
      for (Cursor attribute(bytes_, field.start, field.end); !found.heads && attribute.next(inner);) {
        if (inner.is(3, 0)) found.heads = inner.value;
      }
    }
    return found;
  }

  // A ValueInfoProto: type.tensor_type has elem_type and shape, which has a dim for each axis.
  Noted noted(const Field& span) {
    Noted found;
    Field field;
    for (const Field& type : inside(span, 2)) {
      for (const Field& tensor : inside(type, 1)) {
        for (Cursor cursor(bytes_, tensor.start, tensor.end); cursor.next(field);) {
          if (field.is(1, 0)) found.element = field.value;
          if (!field.is(2, 2)) continue;
          found.axes.clear();
          for (const Field& dimension : inside(field, 1)) found.axes.push_back(axis(dimension));
        }
      }
    }
    return found;
  }

  // A Dimension: a number, or an expression; one that says neither is an expression that nothing solves.
  std::variant<std::uint64_t, std::string> axis(const Field& span) {
    Field field;
    for (Cursor cursor(bytes_, span.start, span.end); cursor.next(field);) {
      if (field.is(1, 0)) return field.value;
      if (field.is(2, 2)) return bytes_.text(field.start, field.end);
    }
    return std::string();
  }

  std::vector<Field> inside(const Field& span, std::uint64_t number) {
    std::vector<Field> found;
    Field field;
    for (Cursor cursor(bytes_, span.start, span.end); cursor.next(field);) {
      if (field.is(number, 2)) found.push_back(field);
    }
    return found;
  }

  std::string text_in(const Field& span, std::uint64_t number) {
    std::string text;
    for (const Field& field : inside(span, number)) text += bytes_.text(field.start, field.end);
    return text;
  }

  Bytes& bytes_;
};

NotedGraph read(Bytes& bytes) { return GraphReader(bytes).read(); }

}  // namespace

std::optional<std::vector<double>> Noted::shape(const Sizes& sizes) const {
  std::vector<double> found;
  for (const auto& axis : axes) {
    if (const auto* number = std::get_if<std::uint64_t>(&axis)) {
      found.push_back(static_cast<double>(*number));
    } else if (const auto size = axis_size(std::get<std::string>(axis), sizes)) {
      found.push_back(static_cast<double>(*size));
    } else {
      return std::nullopt;
    }
  }
  return found;
}

double Noted::bytes(const Sizes& sizes) const {
  const auto found = shape(sizes);
  if (!found) return 0;
  double bytes = element_bytes(element);
  for (const double size : *found) bytes *= size;
  return bytes;
}

NotedGraph read_graph(const std::filesystem::path& path) { return read_onnx(path, read); }

NotedGraph read_graph(std::string_view data, const std::string& name) { return read_onnx(data, name, read); }

std::optional<std::int64_t> axis_size(std::string_view expression, const Sizes& sizes) {
  return Expression(expression, sizes).value();
}

double peak_bytes(const NotedGraph& graph, const std::function<double(const std::string& value)>& size,
                  const std::function<double(const NotedNode& node)>& workspace) {
  const auto constant = [&](const std::string& value) { return value.empty() || graph.weights.count(value) != 0; };
  std::map<std::string, std::string> owner;  // a view → whose memory it is
  const auto root = [&](const std::string& value) {
    const auto found = owner.find(value);
    return found == owner.end() ? value : found->second;
  };
  for (const NotedNode& node : graph.nodes) {
    if (is_view(node) && !constant(node.inputs[0])) owner.emplace(node.outputs[0], root(node.inputs[0]));
  }
  std::map<std::string, std::size_t> last;  // the node after which a value is not needed
  for (std::size_t index = 0; index < graph.nodes.size(); ++index) {
    for (const std::string& value : graph.nodes[index].inputs) {
      if (!constant(value)) last[root(value)] = index;
    }
  }
  for (const std::string& value : graph.outputs) last[root(value)] = graph.nodes.size();
  for (const std::string& value : graph.inputs) last[value] = graph.nodes.size();

  std::map<std::string, double> live;
  double total = 0;
  for (const std::string& value : graph.inputs) {
    if (!constant(value) && live.emplace(value, size(value)).second) total += live[value];
  }
  double peak = total;
  for (std::size_t index = 0; index < graph.nodes.size(); ++index) {
    const NotedNode& node = graph.nodes[index];
    for (const std::string& value : node.outputs) {
      if (!value.empty() && owner.count(value) == 0 && live.emplace(value, 0).second)
        total += live[value] = size(value);
    }
    peak = std::max(peak, total + workspace(node));
    for (const auto* values : {&node.inputs, &node.outputs}) {
      for (const std::string& value : *values) {
        const auto held = live.find(root(value));
        const auto end = last.find(root(value));
        if (held == live.end() || (end != last.end() && end->second > index)) continue;
        total -= held->second;
        live.erase(held);
      }
    }
  }
  return peak;
}

}  // namespace dit_deploy::bundle
