#include "runtime/experts.h"

#include <utility>

namespace dit_deploy::runtime {

ExpertDenoiser::ExpertDenoiser(Make make, double boundary, const sampling::SolverTable& table, Released released)
    : make_(std::move(make)), boundary_(boundary), table_(table), released_(std::move(released)) {}

Predicted ExpertDenoiser::predict(const Sampled& sampled, std::size_t row) {
  // In float32, as torch compares: a timestep is float32, and 833.3 is a hair below 0.8333 * 1000 there.
  const bool first = static_cast<float>(table_.rows[row].timestep) >= static_cast<float>(boundary_);
  if (!active_ || first != first_) {
    close();
    active_ = make_(first);
    first_ = first;
  }
  return active_->predict(sampled, row);
}

void ExpertDenoiser::close() {
  if (!active_) return;
  seconds_ += active_->seconds();
  active_.reset();
  released_(first_);
}

}  // namespace dit_deploy::runtime
