// A build without the fused INT8 operators says how to get them.
#include "dit_deploy/errors.hpp"
#include "runtime/cpu_ops.h"

namespace dit_deploy::runtime {

void register_cpu_ops(Ort::SessionOptions&) { throw BackendError(why_no_cpu_ops()); }

std::string why_no_cpu_ops() {
  return "this libdit_deploy was built without the INT8 operators for CPUs; build it on Linux with g++ 11 or newer";
}

}  // namespace dit_deploy::runtime
