// Every exception that the library throws on purpose; each message is one readable line.
//
//   Error
//   ├── InputError       an argument of a call: what came, what was expected, how to mend it
//   ├── BundleError      a bundle is missing, altered, newer than this library, or unsafe
//   │   └── IntegrityError   a file of a bundle is not the one the manifest describes
//   ├── BackendError     a backend is missing, or refuses the graph
//   │   └── NotFiniteError   what a backend computed holds NaN or infinite values
//   └── Cancelled        a callback asked to stop
#pragma once

#include <stdexcept>

#include "dit_deploy/export.hpp"

namespace dit_deploy {

class DIT_DEPLOY_API Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class DIT_DEPLOY_API InputError : public Error {
 public:
  using Error::Error;
};

class DIT_DEPLOY_API BundleError : public Error {
 public:
  using Error::Error;
};

class DIT_DEPLOY_API IntegrityError : public BundleError {
 public:
  using BundleError::BundleError;
};

class DIT_DEPLOY_API BackendError : public Error {
 public:
  using Error::Error;
};

class DIT_DEPLOY_API NotFiniteError : public BackendError {
 public:
  using BackendError::BackendError;
};

class DIT_DEPLOY_API Cancelled : public Error {
 public:
  using Error::Error;
};

}  // namespace dit_deploy
