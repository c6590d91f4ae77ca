// Writing a solver table row by row; dit_deploy/sampling/rows.py.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "sampling/table.h"

namespace dit_deploy::sampling {

// A linear combination over the basis of a table; `outputs` multiply m_0, m_1, …
struct Combination {
  double sample = 0, saved = 0, prediction = 0, noise = 0;
  std::vector<double> outputs;

  // The saved sample stays.
  static Combination keep();
  // The saved sample becomes the sample before this row.
  static Combination take();
};

// One evaluation of the denoiser; the fields are those of Row.
struct Entry {
  double timestep = 0;
  std::int64_t step = 0;
  Combination sample;
  std::array<double, 2> output{0, 1};
  Combination saved = Combination::keep();
  double input_scale = 1;
  double clip = std::numeric_limits<double>::infinity();
  std::int64_t noise_draws = 0;
  std::array<double, 2> log_variance{std::numeric_limits<double>::quiet_NaN(),
                                     std::numeric_limits<double>::quiet_NaN()};
};

// Rows in the order in which they run.
class Rows {
 public:
  void add(Entry entry) { entries_.push_back(std::move(entry)); }
  std::size_t size() const { return entries_.size(); }
  // Throws InputError where the table is not finite.
  SolverTable table(std::pair<double, double> start, double initial_noise_scale = 1) const;

 private:
  std::vector<Entry> entries_;
};

// `begin` as an index into `count` levels. Throws InputError where no step is left.
std::size_t first_step(std::int64_t begin, std::size_t count);

}  // namespace dit_deploy::sampling
