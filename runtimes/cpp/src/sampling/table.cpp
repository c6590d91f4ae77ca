#include "sampling/table.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "dit_deploy/errors.hpp"
#include "text.h"

namespace dit_deploy::sampling {

namespace {

template <class Column>
bool all_finite(const Column& column) {
  return std::all_of(column.begin(), column.end(), [](double value) { return std::isfinite(value); });
}

bool fine_log_variance(const Row& row) {
  return all_finite(row.log_variance) || (std::isnan(row.log_variance[0]) && std::isnan(row.log_variance[1]));
}

struct Column {
  const char* name;
  bool (*fine)(const Row&);
};

constexpr Column kColumns[] = {
    {"timesteps", [](const Row& row) { return std::isfinite(row.timestep); }},
    {"input_scale", [](const Row& row) { return std::isfinite(row.input_scale); }},
    {"output", [](const Row& row) { return all_finite(row.output); }},
    {"clip", [](const Row& row) { return std::isfinite(row.clip) || row.clip > 0; }},
    {"saved", [](const Row& row) { return all_finite(row.saved); }},
    {"sample", [](const Row& row) { return all_finite(row.sample); }},
    {"log_variance", fine_log_variance},
};

}  // namespace

bool Row::learned() const { return !std::isnan(log_variance[0]); }

bool Row::uses_noise() const { return sample[kNoise] != 0 || saved[kNoise] != 0 || learned(); }

std::size_t SolverTable::history() const { return rows.empty() ? 0 : rows.front().sample.size() - kOutputs; }

bool SolverTable::needs_variance() const {
  return std::any_of(rows.begin(), rows.end(), [](const Row& row) { return row.learned(); });
}

void SolverTable::check() const {
  const std::size_t width = rows.empty() ? 0 : rows.front().sample.size();
  if (rows.empty() || width < kOutputs) {
    throw InputError("solver table: " + std::to_string(rows.size()) + " rows over " + std::to_string(width) +
                     " columns came, at least 1 over 4 expected");
  }
  for (const Row& row : rows) {
    if (row.sample.size() != width || row.saved.size() != width) {
      throw InputError("solver table: sample and saved must have " + std::to_string(width) + " columns in every row");
    }
  }
  for (const Column& column : kColumns) {
    for (std::size_t row = 0; row < rows.size(); ++row) {
      if (!column.fine(rows[row])) {
        throw InputError("this scheduler config has no finite step at timestep " + number_text(rows[row].timestep) +
                         " (row " + std::to_string(row) + ", " + column.name +
                         "): use another timestep_spacing, prediction_type, final_sigmas_type or number of steps");
      }
    }
  }
  std::int64_t before = 0;
  for (const Row& row : rows) {
    if (row.step != before && (row.step != before + 1 || &row == &rows.front())) before = -1;
    if (before < 0) break;
    before = row.step;
  }
  if (before != num_steps - 1) {
    throw InputError("solver table: step must run from 0 to " + std::to_string(num_steps - 1) + " without gaps");
  }
  for (const Row& row : rows) {
    if (row.noise_draws < 0 || (row.uses_noise() && row.noise_draws < 1)) {
      throw InputError("solver table: a row uses noise and draws none");
    }
  }
  if (!std::isfinite(initial_noise_scale) || !std::isfinite(start.first) || !std::isfinite(start.second)) {
    throw InputError("solver table: initial_noise_scale and start must be finite");
  }
}

}  // namespace dit_deploy::sampling
