// A progress bar on standard error, where that is a terminal; step_bar of dit_deploy/cli/_console.py.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace dit_deploy::run {

class StepBar {
 public:
  StepBar();
  StepBar(const StepBar&) = delete;
  StepBar& operator=(const StepBar&) = delete;
  ~StepBar();  // leaves nothing on the terminal

  void advance(const std::string& what, std::int64_t done, std::int64_t total);

 private:
  std::string what_;
  bool terminal_;
  bool shown_ = false;
  std::chrono::steady_clock::time_point begin_, last_;  // of what is being done, and when it last went on
};

}  // namespace dit_deploy::run
