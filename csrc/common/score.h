// The maths of a score, shared by every backend: from a row's reductions to its loss and score.
#pragma once

#include <cmath>
#include <cstdint>
#include <iterator>
#include <limits>

namespace rho_ext {

// The order is part of the op schema: Python passes the number.
enum class Method : int64_t { kRho, kLoss, kNegIl, kGradNorm, kEntropy };
inline constexpr const char* kMethodNames[] = {"rho", "loss", "neg_il", "grad_norm", "entropy"};
inline constexpr int64_t kMethodCount = std::size(kMethodNames);

constexpr bool uses_il(Method method) { return method == Method::kRho || method == Method::kNegIl; }

// What one pass over a row leaves behind. Everything is relative to `max`, so that nothing
// overflows and nothing cancels, however large the logits are.
struct RowStats {
  double max;       // largest logit
  double sum;       // sum of exp(x - max); for grad_norm without the label's term
  double moment;    // entropy: sum of exp(x - max) * (max - x); grad_norm: sum of exp(x - max)^2
                    // without the label's term
  double distance;  // label smoothing: sum of (max - x)
  double label;     // the label's logit
};

// Cross-entropy with label smoothing eps: (1 - eps) * -log p_y + eps / C * sum_j -log p_j.
inline double loss_of(const RowStats& row, Method method, int64_t classes, double smoothing) {
  double gap = row.max - row.label;
  double sum = method == Method::kGradNorm ? row.sum + std::exp(-gap) : row.sum;
  double loss = std::log(sum) + (smoothing == 0.0 ? gap : (1.0 - smoothing) * gap);
  return smoothing == 0.0 ? loss : loss + smoothing / static_cast<double>(classes) * row.distance;
}

// Norm of softmax - onehot. The label's own term 1 - p_y is a sum over the other classes, so a row
// that is almost learnt keeps its digits.
inline double grad_norm_of(const RowStats& row) {
  double total = row.sum + std::exp(row.label - row.max);
  return std::sqrt(row.sum * row.sum + row.moment) / total;
}

// NaN for a row without a finite logit, which has no softmax: its sums hold only the rounding of
// exp(-inf).
inline double entropy_of(const RowStats& row) {
  if (row.max == -std::numeric_limits<double>::infinity()) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  return std::log(row.sum) + row.moment / row.sum;
}

// `loss` and `il` come in the arithmetic type of the op, so that a float32 score is exactly the
// difference of the float32 loss that the caller sees and the table's entry.
template <class Real>
Real score_of(Method method, const RowStats& row, Real loss, Real il) {
  switch (method) {
    case Method::kRho:
      return loss - il;
    case Method::kLoss:
      return loss;
    case Method::kNegIl:
      return -il;
    case Method::kGradNorm:
      return static_cast<Real>(grad_norm_of(row));
    case Method::kEntropy:
      return static_cast<Real>(entropy_of(row));
  }
  return loss;
}

}  // namespace rho_ext
