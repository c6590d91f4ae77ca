#include "runtime/experts.h"

#include <utility>

namespace dit_deploy::runtime {

ExpertDenoiser::ExpertDenoiser(Make make, double boundary, const sampling::SolverTable& table, Released released)
    : make_(std::move(make)), boundary_(boundary), table_(table), released_(std::move(released)) {}

Predicted ExpertDenoiser::predict(const Sampled& sampled, std::size_t row) {
  const bool first = table_.rows[row].timestep >= boundary_;
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
