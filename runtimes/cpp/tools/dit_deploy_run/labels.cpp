#include "dit_deploy_run/labels.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <utility>

#include "dit_deploy/errors.hpp"
#include "dit_deploy_run/files.h"
#include "dit_deploy_run/options.h"

namespace dit_deploy::run {

namespace {

constexpr std::size_t kParts = 3, kNear = 5, kNumbers = 8;
constexpr double kAlike = 0.5;

// Names → their classes, in the order of the manifest.
using Named = std::vector<std::pair<std::string, std::vector<std::int64_t>>>;

// In lower case, blanks between words made one.
std::string key(std::string_view name) {
  std::string out;
  for (const char letter : lower(std::string(name))) {
    const bool blank = letter == ' ' || (letter >= '\t' && letter <= '\r');
    if (!blank) {
      out += letter;
    } else if (!out.empty() && out.back() != ' ') {
      out += ' ';
    }
  }
  if (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

std::vector<std::string> parts(const std::string& name) {
  std::vector<std::string> found{key(name)};
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find(',', begin), name.size());
    const std::string part = key(std::string_view(name).substr(begin, end - begin));
    if (std::find(found.begin(), found.end(), part) == found.end()) found.push_back(part);
    begin = end + 1;
  }
  return found;
}

Named by_name(const std::map<std::int64_t, std::string>& labels) {
  Named named;
  std::map<std::string, std::size_t> places;
  for (const auto& [index, name] : labels) {
    for (const std::string& part : parts(name)) {
      const auto [place, fresh] = places.emplace(part, named.size());
      if (fresh) named.push_back({part, {}});
      named[place->second].second.push_back(index);
    }
  }
  return named;
}

// The longest common block of two ranges, the first of several: where it begins in both, and its length.
struct Block {
  std::size_t first = 0, second = 0, size = 0;
};

Block longest_block(std::string_view first, std::string_view second) {
  Block best;
  std::vector<std::size_t> lengths(second.size() + 1), next(second.size() + 1);
  for (std::size_t i = 0; i < first.size(); ++i) {
    for (std::size_t j = 0; j < second.size(); ++j) {
      next[j + 1] = first[i] == second[j] ? lengths[j] + 1 : 0;
      if (next[j + 1] > best.size) best = {i + 1 - next[j + 1], j + 1 - next[j + 1], next[j + 1]};
    }
    std::swap(lengths, next);
  }
  return best;
}

std::size_t letters_in_common(std::string_view first, std::string_view second) {
  const Block block = longest_block(first, second);
  if (block.size == 0) return 0;
  return block.size + letters_in_common(first.substr(0, block.first), second.substr(0, block.second)) +
         letters_in_common(first.substr(block.first + block.size), second.substr(block.second + block.size));
}

std::vector<std::string> near(const std::string& wanted, const Named& named) {
  std::vector<std::string> found;
  for (const auto& entry : named) {
    if (found.size() == kParts) break;
    if (!wanted.empty() && entry.first.find(wanted) != std::string::npos) found.push_back(entry.first);
  }
  std::vector<std::pair<double, std::string>> scored;
  for (const auto& entry : named) {
    const double score = likeness(entry.first, wanted);
    if (score >= kAlike) scored.emplace_back(score, entry.first);
  }
  std::sort(scored.begin(), scored.end(), std::greater<>());
  if (scored.size() > kNear) scored.resize(kNear);
  for (const auto& [score, name] : scored) {
    if (std::find(found.begin(), found.end(), name) == found.end()) found.push_back(name);
  }
  if (found.size() > kNear) found.resize(kNear);
  return found;
}

template <class Items, class Text>
std::string listing(const Items& items, std::size_t most, const Text& text) {
  std::string out;
  for (std::size_t index = 0; index < std::min(most, items.size()); ++index) {
    out += (index ? ", " : "") + text(items[index]);
  }
  return items.size() > most ? out + ", …" : out;
}

std::int64_t class_index(const std::string& text, const Named& named) {
  if (const std::optional<std::int64_t> number = whole_number(text)) return *number;
  const std::string wanted = key(text), begin = "--class-label " + in_quotes(text);
  const auto entry = std::find_if(named.begin(), named.end(), [&](const auto& one) { return one.first == wanted; });
  if (entry != named.end() && entry->second.size() == 1) return entry->second.front();
  if (entry != named.end()) {
    const auto digits = [](std::int64_t number) { return std::to_string(number); };
    throw InputError(begin + " names several classes: " + listing(entry->second, kNumbers, digits) +
                     "; give the number");
  }
  if (named.empty()) throw InputError(begin + ": this bundle has no names for its classes; give a number");
  const std::vector<std::string> alike = near(wanted, named);
  const std::string hint =
      alike.empty() ? "it has " + listing(named, kNear, [](const auto& one) { return in_quotes(one.first); })
                    : "did you mean " + listing(alike, kNear, [](const auto& name) { return in_quotes(name); }) + "?";
  throw InputError(begin + " is no class of this bundle; " + hint);
}

}  // namespace

double likeness(std::string_view first, std::string_view second) {
  const std::size_t all = first.size() + second.size();
  return all == 0 ? 1.0 : 2.0 * static_cast<double>(letters_in_common(first, second)) / static_cast<double>(all);
}

std::vector<std::int64_t> class_indices(const std::vector<std::string>& given,
                                        const std::map<std::int64_t, std::string>& labels) {
  const Named named = by_name(labels);
  std::vector<std::int64_t> indices;
  for (const std::string& text : given) indices.push_back(class_index(text, named));
  return indices;
}

}  // namespace dit_deploy::run
