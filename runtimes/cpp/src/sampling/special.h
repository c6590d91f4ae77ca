// The quantile of the beta distribution; dit_deploy/sampling/special.py.
#pragma once

namespace dit_deploy::sampling {

// x with I_x(a, b) = p for p in 0 … 1: the inverse of the regularised incomplete beta function. Newton's method on the
// smaller tail, kept inside a bisection bracket; about 1e-14 relative.
double beta_quantile(double p, double a, double b);

}  // namespace dit_deploy::sampling
