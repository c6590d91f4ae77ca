#include "runtime/runner.h"

#include <iterator>

namespace dit_deploy::runtime {

BindingPool::Lease::Lease(Lease&& other) noexcept { *this = std::move(other); }

BindingPool::Lease& BindingPool::Lease::operator=(Lease&& other) noexcept {
  if (this != &other) {
    if (binding_) pool_->give_back(std::move(sizes_), std::move(binding_));
    pool_ = other.pool_;
    sizes_ = std::move(other.sizes_);
    binding_ = std::move(other.binding_);
  }
  return *this;
}

BindingPool::Lease::~Lease() {
  if (binding_) pool_->give_back(std::move(sizes_), std::move(binding_));
}

BindingPool::BindingPool(std::unique_ptr<Runner> runner, std::size_t capacity)
    : runner_(std::move(runner)), capacity_(capacity) {}

BindingPool::Lease BindingPool::borrow(const Sizes& sizes) {
  Lease lease;
  lease.pool_ = this;
  lease.sizes_ = sizes;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto idle = idle_.rbegin(); idle != idle_.rend(); ++idle) {
      if (idle->first != sizes) continue;
      lease.binding_ = std::move(idle->second);
      idle_.erase(std::next(idle).base());
      return lease;
    }
  }
  lease.binding_ = runner_->bind(sizes);
  return lease;
}

void BindingPool::give_back(Sizes sizes, std::unique_ptr<Binding> binding) noexcept {
  try {
    std::list<std::pair<Sizes, std::unique_ptr<Binding>>> evicted;  // freed after the lock is
    const std::lock_guard<std::mutex> lock(mutex_);
    idle_.emplace_back(std::move(sizes), std::move(binding));
    while (idle_.size() > capacity_) evicted.splice(evicted.end(), idle_, idle_.begin());
  } catch (const std::bad_alloc&) {
    // The binding is freed instead of kept.
  }
}

}  // namespace dit_deploy::runtime
