// From a declared tensor to actual shapes and back; dit_deploy/bundle/shapes.py and _text.py.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "bundle/manifest.h"

namespace dit_deploy::bundle {

// "float32", …
const char* dtype_name(DType dtype);
std::size_t dtype_size(DType dtype);

// "[batch, 4, 2·patch_height, 2·patch_width]", as the Python package writes it.
std::string shape_text(const TensorSpec& spec);
// "0 … 1000"
std::string range_text(const TensorSpec& spec);
// A plain shape for a message: "(1, 4, 32, 32)".
std::string shape_text(const Shape& shape);

// The shape of a declared tensor for given free sizes. Throws InputError.
Shape shape_of(const TensorSpec& spec, const Sizes& sizes);
// Solves free sizes from a tensor's shape into `sizes` (the Python function does it for several at once); throws
// InputError naming tensor and axis for another dtype or rank, a size that does not fit, or a disagreement.
void bind_axes(const TensorSpec& spec, DType dtype, const Shape& shape, Sizes& sizes,
               std::map<std::string, std::string>& owner);
// Holds values against the declared range; floating-point values must be finite. Throws InputError.
void check_values(const TensorSpec& spec, const Tensor& tensor);

// Number of elements.
std::int64_t elements(const Shape& shape);

}  // namespace dit_deploy::bundle
