// What one pass over a row leaves behind. Plain data: the row kernels include it, and they may
// share no function with code for another instruction set (see cpu/rows.h).
#pragma once

namespace rho_ext {

// Everything is relative to `max`, so that nothing overflows and nothing cancels, however large the
// logits are. For the loss alone `max` may be the label's logit, if that is not far below. For
// grad_norm, `max`, `sum` and `moment` leave the label's logit out: they keep their digits when it
// is far above all others.
template <class Real>
struct RowStats {
  Real max;       // largest logit
  Real sum;       // sum of exp(x - max); 0 if every x is -inf
  Real log_sum;   // log(sum)
  Real moment;    // entropy: sum of exp(x - max) * (max - x); grad_norm: sum of exp(x - max)^2
  Real distance;  // label smoothing: sum of (largest logit - x), the label's always among them
  Real label;     // the label's logit
};

}  // namespace rho_ext
