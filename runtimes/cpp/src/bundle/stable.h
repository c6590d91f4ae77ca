// Reads a folder that a writer may replace at any moment: all of it from one folder, or reads it again;
// dit_deploy/bundle/_stable.py.
#pragma once

#include <chrono>
#include <filesystem>
#include <thread>

#include "bundle/files.h"
#include "dit_deploy/errors.hpp"

namespace dit_deploy::bundle {

// Returns what read() gives, called anew where another folder has taken the name `root` meanwhile. A BundleError of
// read() counts only where the folder stayed the same.
template <typename Read>
auto read_stable(const std::filesystem::path& root, Read&& read) -> decltype(read()) {
  constexpr int kAttempts = 64;  // the waits between them add up to two seconds
  // An inode's number alone would not do: the next folder made may get that of the one removed.
  const auto identity = [&] {
    const State state = state_of(root);
    return std::make_tuple(std::get<0>(state), std::get<1>(state), std::get<4>(state));
  };
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    std::this_thread::sleep_for(std::chrono::milliseconds(attempt));
    const auto before = identity();
    try {
      auto found = read();
      if (identity() == before) return found;
    } catch (const BundleError&) {
      // A writer may have put another folder here between two of our reads; then nothing is wrong with this one.
      if (identity() == before) throw;
    }
  }
  throw BundleError(shown(root) + " is being replaced over and over; try again later");
}

}  // namespace dit_deploy::bundle
