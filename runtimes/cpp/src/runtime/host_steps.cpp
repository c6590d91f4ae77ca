#include "runtime/host_steps.h"

#include <utility>

#include "bundle/shapes.h"
#include "runtime/finite.h"

namespace dit_deploy::runtime {
namespace {

class Whole final : public Sampled {
 public:
  explicit Whole(const sampling::SolverState& state) : state_(state) {}
  void model_input(std::size_t row, float* out) const override { state_.model_input(row, out); }

 private:
  const sampling::SolverState& state_;
};

// The pool, which somebody else owns.
std::shared_ptr<BindingPool> borrowed(BindingPool& pool) { return {std::shared_ptr<void>(), &pool}; }

}  // namespace

HostSteps::HostSteps(std::unique_ptr<Denoiser> denoiser, const sampling::SolverTable& table, std::size_t size,
                     const float* start)
    : denoiser_(std::move(denoiser)), table_(table), state_(table, size) {
  state_.reset(start);
}

HostSteps::HostSteps(BindingPool& denoiser, const Run& run, const float* start)
    : HostSteps(std::make_unique<GuidedDenoiser>(borrowed(denoiser), run), run.table,
                static_cast<std::size_t>(bundle::elements(run.shape)), start) {}

void HostSteps::predict(std::size_t row) { predicted_ = denoiser_->predict(Whole(state_), row); }

void HostSteps::advance(std::size_t row, const float* noise) {
  state_.advance(row, predicted_.prediction, table_.rows[row].learned() ? predicted_.variance : nullptr, noise);
}

void HostSteps::check(std::int64_t step) { check_latents(state_.sample(), state_.size(), step, table_.num_steps); }

}  // namespace dit_deploy::runtime
