// A progress bar on standard error, where that is a terminal; step_bar of dit_deploy/cli/_console.py.
#pragma once

#include <chrono>
#include <cstdint>

namespace dit_deploy::run {

class StepBar {
 public:
  explicit StepBar(const char* what);
  StepBar(const StepBar&) = delete;
  StepBar& operator=(const StepBar&) = delete;
  ~StepBar();  // leaves nothing on the terminal

  void advance(std::int64_t done, std::int64_t total);

 private:
  const char* what_;
  bool terminal_;
  bool shown_ = false;
  std::chrono::steady_clock::time_point begin_;
};

}  // namespace dit_deploy::run
