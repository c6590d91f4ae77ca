#include "sampling/solver_row.h"

#include <algorithm>
#include <limits>

#include "dit_deploy/errors.hpp"
#include "sampling/singles.h"

namespace dit_deploy::sampling {

namespace {

// k of the m_k, m_1 and older, that a row multiplies by something other than 0.
std::vector<std::size_t> older_outputs(const Row& row) {
  std::vector<std::size_t> older;
  for (std::size_t column = kOutputs + 1; column < row.sample.size(); ++column) {
    if (row.sample[column] != 0 || row.saved[column] != 0) older.push_back(column - kOutputs);
  }
  return older;
}

// Writes a row's coefficients over the graph's basis: sample, saved, prediction, noise, m_0, older ones.
float* write_over(float* out, const std::vector<double>& coefficients, const std::vector<std::size_t>& older) {
  const std::size_t own = std::min(coefficients.size(), std::size_t{kOutputs} + 1);  // without history there is no m_0
  for (std::size_t column = 0; column < own; ++column) out[column] = to_single(coefficients[column]);
  for (std::size_t place = 0; place < older.size(); ++place) {
    out[kOutputs + 1 + place] = to_single(coefficients[kOutputs + older[place]]);
  }
  return out + kOutputs + 1 + kOlder;
}

}  // namespace

std::string no_solver_rows(const SolverTable& table, const Guidance& guidance) {
  if (guidance.rescale != 0) return "guidance rescale: the solver graph has none; the loop on the host has";
  if (guidance.token) return "guidance of tokens: the solver graph has none; the loop on the host has";
  for (std::size_t row = 0; row < table.rows.size(); ++row) {
    const std::size_t count = older_outputs(table.rows[row]).size();
    if (count > kOlder) {
      return "solver table: row " + std::to_string(row) + " multiplies " + std::to_string(count) +
             " older outputs, a solver graph takes " + std::to_string(kOlder);
    }
  }
  return {};
}

std::vector<SolverRow> solver_rows(const SolverTable& table, const Guidance& guidance, double timestep_scale) {
  const std::string reason = no_solver_rows(table, guidance);
  if (!reason.empty()) throw InputError(reason);
  std::vector<SolverRow> rows(table.rows.size());
  for (std::size_t index = 0; index < rows.size(); ++index) {
    const Row& row = table.rows[index];
    const Row* const next = index + 1 < rows.size() ? &table.rows[index + 1] : nullptr;
    SolverRow& made = rows[index];
    made.older = older_outputs(row);
    made.guided = guidance.active(row.step, table.num_steps);
    made.noise = row.uses_noise();
    const double smallest = row.learned() ? row.log_variance[0] : 0, largest = row.learned() ? row.log_variance[1] : 0;
    float* out = made.coefficients.data();
    *out++ = to_single(row.output[0]);
    *out++ = to_single(row.output[1]);
    // An infinity times 0 is no number, and some backends have no infinity in a clip: the largest float is as good.
    *out++ = std::min(to_single(row.clip), std::numeric_limits<float>::max());
    out = write_over(out, row.sample, made.older);
    out = write_over(out, row.saved, made.older);
    // ½ (f · largest + (1 − f) · smallest) with f = (variance + 1) / 2
    *out++ = to_single((largest - smallest) / 4);
    *out++ = to_single((largest + smallest) / 4);
    *out++ = row.learned() ? 1.0F : 0.0F;
    *out++ = made.guided ? to_single(guidance.scale - 1) : 0.0F;
    *out++ = next != nullptr ? to_single(next->input_scale) : 1.0F;
    *out++ = next != nullptr ? to_single(next->timestep * timestep_scale) : 0.0F;
  }
  return rows;
}

}  // namespace dit_deploy::sampling
