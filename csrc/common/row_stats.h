// The result of one pass over a row. Plain data, because the row kernels share no function with
// code for another instruction set (see cpu/rows.h).
#pragma once

namespace rho_ext {

// All sums are relative to `max`, so that large logits cause no overflow and no cancellation. For
// the loss alone `max` may be the label's logit, if that is not far below the largest. For
// grad_norm, `max`, `sum` and `moment` exclude the label's logit: they keep their digits when it is
// far above all others.
template <class Real>
struct RowStats {
  Real max;       // largest logit
  Real sum;       // sum of exp(x - max); 0 if every x is -inf
  Real log_sum;   // log(sum)
  Real moment;    // entropy: sum of exp(x - max) * (max - x); grad_norm: sum of exp(x - max)^2
  Real distance;  // label smoothing: sum of (largest logit - x), always with the label's logit
  Real label;     // the label's logit
};

}  // namespace rho_ext
