// Two denoisers in one run, the second for low noise (Wan 2.2): which evaluates a row is a matter of its timestep;
// runtimes/experts.py.
#pragma once

#include <functional>
#include <memory>

#include "runtime/guided.h"

namespace dit_deploy::runtime {

// Evaluates the first denoiser from `boundary` up and the second below; each is opened when its time comes, and the one that
// is not in use is closed.
class ExpertDenoiser final : public Denoiser {
 public:
  using Make = std::function<std::unique_ptr<Denoiser>(bool first)>;
  using Released = std::function<void(bool first)>;

  // `boundary` is in the unit of the table's timesteps; `released` is told which was closed, for whoever wants its memory
  // back. `table` outlives the denoiser.
  ExpertDenoiser(Make make, double boundary, const sampling::SolverTable& table, Released released);
  ~ExpertDenoiser() override { close(); }

  Predicted predict(const Sampled& sampled, std::size_t row) override;
  void close() override;
  double seconds() const override { return seconds_ + (active_ ? active_->seconds() : 0); }

 private:
  const Make make_;
  const double boundary_;
  const sampling::SolverTable& table_;
  const Released released_;
  std::unique_ptr<Denoiser> active_;
  bool first_ = true;  // which is active
  double seconds_ = 0;
};

}  // namespace dit_deploy::runtime
