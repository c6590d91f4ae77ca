#include "runtime/memory.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <string_view>

#include "dit_deploy/errors.hpp"
#include "text.h"

namespace dit_deploy::runtime {
namespace {

// What a runtime takes beyond the values that live at once: arrays laid out anew for a convolution, an allocator that rounds
// up. ONNX Runtime on a CPU took 1.2 to 1.95 times these values (tests/runtimes/test_memory.py measures it).
constexpr double kRoom = 2.0;
// Pieces have a multiple of so many latent pixels on a side, so that the quarter that they share is whole.
constexpr std::int64_t kQuarters = 4;

struct Unit {
  char letter;
  double size;
};
constexpr std::array<Unit, 4> kUnits{{{'T', 1e12}, {'G', 1e9}, {'M', 1e6}, {'k', 1e3}}};

// Bytes as read_bytes() takes them: "1.5G"; rounded up where less would not do.
std::string amount(double value, bool up) {
  const auto* unit = std::find_if(kUnits.begin(), kUnits.end(), [&](const Unit& one) { return value >= one.size; });
  const double digits = unit == kUnits.end() ? value * 10 : value / unit->size * 10;
  const std::string text = number_text((up ? std::ceil(digits) : std::nearbyint(digits)) / 10);
  return unit == kUnits.end() ? text : text + unit->letter;
}

// How many scores a node of attention makes: batch · heads · queries · keys.
double scores(const bundle::NotedGraph& graph, const bundle::NotedNode& node, const bundle::Sizes& sizes) {
  if (node.op_type != "Attention" || node.inputs.size() < 2) return 0;
  const auto found_query = graph.values.find(node.inputs[0]), found_key = graph.values.find(node.inputs[1]);
  if (found_query == graph.values.end() || found_key == graph.values.end()) return 0;
  const auto query = found_query->second.shape(sizes), key = found_key->second.shape(sizes);
  if (!query || !key || query->size() != key->size()) return 0;
  if (query->size() == 4)  // [batch, heads, tokens, head]
    return (*query)[0] * (*query)[1] * (*query)[2] * (*key)[2];
  if (query->size() != 3) return 0;
  return (*query)[0] * static_cast<double>(node.heads.value_or(1)) * (*query)[1] * (*key)[1];
}

// [batch, tokens, heads · head] or with frames before: the sizes of a graph whose latents have this extent, [frames,] height,
// width; a VAE of pictures decodes one frame at a time.
bundle::Sizes sizes_of(const bundle::TensorSpec& latents, const bundle::Shape& extent, std::int64_t batch) {
  bundle::Sizes sizes{{"batch", batch}};
  const std::size_t axes = latents.axes.size() - 2;
  for (std::size_t index = 0; index < axes; ++index) {
    const auto* axis = std::get_if<bundle::Axis>(&latents.axes[index + 2]);
    if (axis == nullptr) continue;
    const std::int64_t beyond = extent.at(extent.size() - axes + index) - axis->offset;
    const std::int64_t free = beyond / axis->multiple + (beyond > 0 && beyond % axis->multiple != 0 ? 1 : 0);
    sizes[axis->name] = std::max(axis->minimum, free);
  }
  return sizes;
}

}  // namespace

std::int64_t read_bytes(const std::string& text) {
  constexpr std::string_view kBlanks = " \t\n\v\f\r";
  std::string_view rest = text;
  rest.remove_prefix(std::min(rest.find_first_not_of(kBlanks), rest.size()));
  rest = rest.substr(0, rest.find_last_not_of(kBlanks) + 1);
  const auto digits = [&](std::size_t from) {
    return std::min(rest.find_first_not_of("0123456789", from), rest.size());
  };
  std::size_t end = digits(0);
  const bool begins = end > 0;
  if (begins && end + 1 < rest.size() && rest[end] == '.' && digits(end + 1) > end + 1) end = digits(end + 1);
  double found = 0;
  const auto failed = std::from_chars(rest.data(), rest.data() + end, found).ec;
  rest.remove_prefix(end);
  rest.remove_prefix(std::min(rest.find_first_not_of(kBlanks), rest.size()));
  for (const Unit& unit : kUnits) {
    if (rest.empty() || rest.front() != unit.letter) continue;
    found *= unit.size;
    rest.remove_prefix(1);
    break;
  }
  if (!rest.empty() && rest.front() == 'B') rest.remove_prefix(1);
  constexpr double kMost = 9e18;  // bytes that 64 bits hold; more is as good as no limit
  if (!begins || failed != std::errc() || !rest.empty() || found < 1) {
    throw InputError("vae_memory: " + quoted(std::string_view(text), 100) +
                     " came, expected bytes above 0, such as 2G or 512M");
  }
  return static_cast<std::int64_t>(std::min(found, kMost));
}

std::vector<std::pair<std::optional<std::int64_t>, Pieces>> smaller_pieces(const bundle::Manifest& manifest,
                                                                           const bundle::Shape& size,
                                                                           const Pieces& always) {
  std::vector<std::pair<std::optional<std::int64_t>, Pieces>> offered;
  std::int64_t tile = kQuarters;
  while (tile * 2 < std::max(size[size.size() - 2], size.back())) tile *= 2;
  for (; tile >= kQuarters; tile /= 2) offered.emplace_back(tile, Pieces::square(tile, always.frames));
  if (manifest.tiling) offered.emplace_back(std::nullopt, Pieces::of(*manifest.tiling, true));
  return offered;
}

Pieces VaeMemory::pieces_within(const bundle::Shape& size, const Pieces& always, std::int64_t encoded) {
  const bundle::Manifest& manifest = bundle_.manifest();
  const auto smaller = smaller_pieces(manifest, size, always);
  std::vector<Pieces> offered{always};
  for (const auto& one : smaller) offered.push_back(one.second);
  const auto own = manifest.tiling ? Pieces::of(*manifest.tiling, false).frames : std::nullopt;
  if (own && !always.frames) {
    // Squares cut in time as the family cuts, the smallest pieces that there are.
    for (const auto& [tile, pieces] : smaller) {
      if (tile) offered.push_back({pieces.height, pieces.width, own, std::nullopt});
    }
  }
  struct Choice {
    double bytes;
    Pieces pieces;
  };
  std::vector<Choice> choices;
  for (const Pieces& pieces : offered) {
    // An encoder is its decoder turned round, and smaller.
    choices.push_back({decoder_bytes(pieces.extent(size), std::max<std::int64_t>(1, encoded)), pieces});
  }
  std::stable_sort(choices.begin(), choices.end(), [](const Choice& a, const Choice& b) { return a.bytes > b.bytes; });
  for (Choice& choice : choices) {
    if (choice.bytes > static_cast<double>(budget_)) continue;
    choice.pieces.samples = 1;
    return choice.pieces;
  }
  throw InputError("vae_memory: " + amount(static_cast<double>(budget_), false) +
                   " came; the smallest piece of this size needs " + amount(choices.back().bytes, true) +
                   " beside the weights; give that much, or draw a smaller size");
}

double VaeMemory::decoder_bytes(const bundle::Shape& extent, std::int64_t batch) {
  const bundle::Sizes sizes = sizes_of(*bundle_.component("vae_decoder").input("latents"), extent, batch);
  const bundle::NotedGraph& noted = graph();
  const auto check = [&](const std::string& value) {
    const auto found = noted.values.find(value);
    if (found != noted.values.end() && found->second.shape(sizes)) return;
    throw InputError("vae_memory: this bundle's VAE decoder does not tell the shapes of its values; give vae_tile");
  };
  for (const std::string& value : noted.inputs) check(value);
  for (const bundle::NotedNode& node : noted.nodes) {
    for (const std::string& value : node.outputs) check(value);
  }
  return kRoom * bundle::peak_bytes(
                     noted, [&](const std::string& value) { return noted.values.at(value).bytes(sizes); },
                     [&](const bundle::NotedNode& node) { return sizeof(float) * scores(noted, node, sizes); });
}

const bundle::NotedGraph& VaeMemory::graph() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!graph_) graph_ = bundle::read_graph(bundle_.component_path("vae_decoder"));
  return *graph_;
}

}  // namespace dit_deploy::runtime
