// Which of an engine's profiles a run uses: the one whose optimum is nearest, the narrowest of equals;
// dit_deploy/bundle/profiles.py.
#include <algorithm>
#include <cmath>

#include "bundle/engine.h"
#include "text.h"

namespace dit_deploy::bundle {
namespace {

double doublings(std::int64_t from, std::int64_t to) {
  return std::log2(static_cast<double>(to) / static_cast<double>(from));
}

// 0 for a single size, 1 for each doubling between a minimum and its maximum.
double width(const Profile& profile) {
  double sum = 0;
  for (const auto& [name, one] : profile.sizes) sum += doublings(one.minimum, one.maximum);
  return sum;
}

std::string describe(const Profile& profile) {
  std::vector<std::string> parts;
  for (const auto& [name, one] : profile.sizes) {
    const std::string low = name + " " + std::to_string(one.minimum);
    parts.push_back(one.minimum == one.maximum ? low : low + " … " + std::to_string(one.maximum));
  }
  return join(parts);
}

}  // namespace

bool Profile::holds(const Sizes& given) const {
  return std::all_of(sizes.begin(), sizes.end(), [&](const auto& one) {
    const auto found = given.find(one.first);
    return found != given.end() && one.second.minimum <= found->second && found->second <= one.second.maximum;
  });
}

double Profile::distance(const Sizes& given) const {
  double sum = 0;
  for (const auto& [name, one] : sizes) sum += std::abs(doublings(one.optimum, given.at(name)));
  return sum;
}

std::size_t select_profile(const std::vector<Profile>& profiles, const Sizes& sizes) {
  std::size_t best = profiles.size();
  std::pair<double, double> least;
  for (std::size_t index = 0; index < profiles.size(); ++index) {
    if (!profiles[index].holds(sizes)) continue;
    const std::pair<double, double> cost(profiles[index].distance(sizes), width(profiles[index]));
    if (best == profiles.size() || cost < least) {
      best = index;
      least = cost;
    }
  }
  if (best < profiles.size()) return best;
  std::vector<std::string> names, came, held;
  for (const Profile& profile : profiles) {
    for (const auto& [name, one] : profile.sizes) {
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    }
    held.push_back(describe(profile));
  }
  for (const std::string& name : names) {
    const auto found = sizes.find(name);
    if (found != sizes.end()) came.push_back(name + " " + std::to_string(found->second));
  }
  throw InputError("no profile of this engine holds " + (came.empty() ? "nothing" : join(came)) + "; it holds " +
                   (held.empty() ? "no size at all" : join(held, "; or ")) + ". Build an engine for these sizes");
}

}  // namespace dit_deploy::bundle
