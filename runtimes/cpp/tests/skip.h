// Skipping a test visibly: doctest decides before it runs, and what a test needs is known only then.
#pragma once

#include <string>

namespace dit_deploy::tests {

// Says why a test case does not run, and with which command it would; the case returns after it.
void skip(const std::string& message);

}  // namespace dit_deploy::tests
