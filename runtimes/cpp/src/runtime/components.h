// The components of a bundle, each checked and loaded when it is first used: from an engine, or as a plain graph;
// runtimes/components.py.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "bundle/bundle.h"
#include "dit_deploy/pipeline.hpp"
#include "runtime/providers.h"
#include "runtime/runner.h"

namespace dit_deploy::runtime {

// Components to run instead of the bundle's own, by name; "solver" may be among them. For tests.
using Runners = std::map<std::string, std::unique_ptr<Runner>>;

class Components {
 public:
  // `engine` runs the components that it has; the others run as plain graphs, as all do without one. `bundle` outlives
  // the components.
  Components(const bundle::Bundle& bundle, std::optional<bundle::Engine> engine, Options options, Runners runners);

  bool has(const std::string& name) const;
  // Throws BundleError, IntegrityError, BackendError. Several threads may ask at once: each is loaded once.
  std::shared_ptr<BindingPool> pool(const std::string& name);
  // Forgets what pool() loaded; its memory is free once no run uses it.
  void release(const std::string& name);
  // nullptr where there is no solver graph, as with the plain graphs.
  BindingPool* solver();
  // Of all runners that are loaded: what a person would want to know and no run fails for.
  std::vector<std::string> warnings();

 private:
  struct Slot {
    std::mutex mutex;
    std::shared_ptr<BindingPool> pool;
    bool absent = false;
  };

  std::unique_ptr<Runner> load(const std::string& name);
  std::unique_ptr<Runner> load_solver();
  std::unique_ptr<Runner> load_from(const std::string& name, const Component& component, bool cuda_graphs);
  std::unique_ptr<Runner> open_graph(const std::filesystem::path& path, const Component& component,
                                     const SessionSettings& settings) const;
  SessionSettings settings_of_engine() const;
  SessionSettings settings_of_plain_graphs() const;

  const bundle::Bundle& bundle_;
  std::optional<bundle::Engine> engine_;
  Options options_;
  std::mutex runners_mutex_;
  Runners runners_;
  std::map<std::string, Slot> slots_;  // its keys never change after construction
};

}  // namespace dit_deploy::runtime
