// One call of a component on tensors of the host, which takes no part in a loop: text encoders, pictures as conditions.
#pragma once

#include <map>
#include <string>

#include "dit_deploy/pipeline.hpp"
#include "runtime/runner.h"

namespace dit_deploy::runtime {

using Tensors = std::map<std::string, Tensor>;  // by name

// The outputs of the component `name`, bound to `sizes`, for `feeds`, one for each of its inputs; adds the time to `seconds`
// where it is given. Throws BackendError, and NotFiniteError where an output is not finite.
Tensors call(BindingPool& pool, const std::string& name, const Sizes& sizes, const Tensors& feeds,
             double* seconds = nullptr);

// Zeros of a type and shape.
Tensor zeros(DType dtype, Shape shape);

}  // namespace dit_deploy::runtime
