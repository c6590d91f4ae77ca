#include "dit_deploy_run/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>

namespace dit_deploy::run {

StepBar::StepBar() : terminal_(isatty(STDERR_FILENO) == 1), last_(std::chrono::steady_clock::now()) {}

StepBar::~StepBar() {
  if (shown_) std::fputs("\r\x1b[K", stderr);
}

void StepBar::advance(const std::string& what, std::int64_t done, std::int64_t total) {
  if (!terminal_ || done < 1 || total < done) return;
  if (what != what_) begin_ = last_;  // what comes next takes a time of its own
  what_ = what;
  last_ = std::chrono::steady_clock::now();
  constexpr std::int64_t kWidth = 40;
  std::string bar;
  for (std::int64_t place = 0; place < kWidth; ++place) bar += place < done * kWidth / total ? "━" : "·";
  const std::chrono::duration<double> past = last_ - begin_;
  const auto left = static_cast<long>(past.count() * static_cast<double>(total - done) / static_cast<double>(done));
  std::fprintf(stderr, "\r\x1b[K%s %s %lld/%lld %ld:%02ld:%02ld", what.c_str(), bar.c_str(),
               static_cast<long long>(done), static_cast<long long>(total), left / 3600, left / 60 % 60, left % 60);
  std::fflush(stderr);
  shown_ = true;
}

}  // namespace dit_deploy::run
