#include "sampling/rows.h"

#include <algorithm>
#include <cmath>

#include "dit_deploy/errors.hpp"

namespace dit_deploy::sampling {

namespace {

std::vector<double> over(const Combination& combination, std::size_t history) {
  std::vector<double> columns{combination.sample, combination.saved, combination.prediction, combination.noise};
  columns.insert(columns.end(), combination.outputs.begin(), combination.outputs.end());
  columns.resize(kOutputs + history);
  return columns;
}

// Writes m_0 out as sample and prediction wherever nothing clips it.
//
// The two coefficients of the sample often cancel, by a factor of sigma at a long step: summed here they do so in
// float64, where an m_0 rounded to float32 would leave its rounding. And where no later row wants m_0, the loop has no
// need to make it.
void fold_output(std::vector<double>& target, const Row& row) {
  const double factor = target[kOutputs];
  if (!(std::isinf(row.clip) && row.clip > 0) || factor == 0) return;
  target[kSample] += factor * row.output[0];
  target[kPrediction] += factor * row.output[1];
  target[kOutputs] = 0;
}

std::size_t used_columns(const std::vector<double>& columns) {
  std::size_t used = columns.size();
  while (used > 0 && columns[used - 1] == 0) --used;
  return used;
}

}  // namespace

Combination Combination::keep() {
  Combination combination;
  combination.saved = 1;
  return combination;
}

Combination Combination::take() {
  Combination combination;
  combination.sample = 1;
  return combination;
}

SolverTable Rows::table(std::pair<double, double> start, double initial_noise_scale) const {
  first_step(0, entries_.size());
  std::size_t history = 0;
  for (const Entry& entry : entries_) {
    history = std::max({history, entry.sample.outputs.size(), entry.saved.outputs.size()});
  }
  SolverTable table;
  table.num_steps = entries_.back().step + 1;
  table.initial_noise_scale = initial_noise_scale;
  table.start = start;
  std::size_t kept = kOutputs;
  for (const Entry& entry : entries_) {
    Row row;
    row.timestep = entry.timestep;
    row.step = entry.step;
    row.input_scale = entry.input_scale;
    row.output = entry.output;
    row.clip = entry.clip;
    row.saved = over(entry.saved, history);
    row.sample = over(entry.sample, history);
    row.noise_draws = entry.noise_draws;
    row.log_variance = entry.log_variance;
    if (history > 0) {
      fold_output(row.sample, row);
      fold_output(row.saved, row);
    }
    kept = std::max({kept, used_columns(row.sample), used_columns(row.saved)});
    table.rows.push_back(std::move(row));
  }
  for (Row& row : table.rows) {
    row.sample.resize(kept);
    row.saved.resize(kept);
  }
  table.check();
  return table;
}

std::size_t first_step(std::int64_t begin, std::size_t count) {
  if (begin < 0 || static_cast<std::uint64_t>(begin) >= count) {
    throw InputError("begin: no step is left to run; begin earlier");
  }
  return static_cast<std::size_t>(begin);
}

}  // namespace dit_deploy::sampling
