// Compute a row's loss and score from its reductions. All backends share this file.
#pragma once

#include <cmath>
#include <cstdint>
#include <iterator>
#include <limits>

#include "common/host_device.h"
#include "common/row_stats.h"

namespace rho_ext {

// The order is part of the op schema: Python passes the number.
enum class Method : int64_t { kRho, kLoss, kNegIl, kGradNorm, kEntropy, kLogSumExp };
inline constexpr const char* kMethodNames[] = {"rho",       "loss",    "neg_il",
                                               "grad_norm", "entropy", "logsumexp"};
inline constexpr int64_t kMethodCount = std::size(kMethodNames);

RHO_HOST_DEVICE constexpr bool uses_il(Method method) {
  return method == Method::kRho || method == Method::kNegIl;
}

// Replace any NaN by torch.nan. The sum of two NaN is either of them, as the compiler chose.
template <class Real>
RHO_HOST_DEVICE Real canonical_nan(Real x) {
  constexpr Real kNaN = std::numeric_limits<Real>::quiet_NaN();
  return x == x ? x : kNaN;
}

// Return the larger value. `Real` may be a vector, here, in gap_of and in cross_entropy.
template <class Real>
RHO_HOST_DEVICE Real larger(Real a, Real b) {
  return a < b ? b : a;
}

// scale_of: exp(row.max - largest logit). gap_of: largest logit - label's logit.
template <class Real>
RHO_HOST_DEVICE Real scale_of(const RowStats<Real>& row) {
  return std::exp(row.max - larger(row.max, row.label));
}
template <class Real>
RHO_HOST_DEVICE Real gap_of(Real max, Real label) {
  return larger(max, label) - label;
}

// Return the log of the sum of exp(x - largest logit) over all classes.
template <class Real>
RHO_HOST_DEVICE Real log_sum_of(const RowStats<Real>& row, Method method) {
  if (method != Method::kGradNorm) {
    return row.log_sum;
  }
  const Real others = row.sum * scale_of(row);
  const Real gap = gap_of(row.max, row.label);
  return gap == 0 ? std::log1p(others) : std::log(others + std::exp(-gap));
}

// Return cross-entropy with label smoothing eps: (1 - eps) * -log p_y + eps / C * sum_j -log p_j.
// multiply_add(a, b, c) returns a * b + c: the vectors of the row kernels fuse it.
template <class Real, class Number, class MultiplyAdd>
RHO_HOST_DEVICE Real cross_entropy(Real log_sum, Real gap, Real distance, int64_t classes,
                                   Number smoothing, const MultiplyAdd& multiply_add) {
  const Real loss = multiply_add(gap, 1 - smoothing, log_sum);
  return smoothing == 0 ? loss
                        : multiply_add(distance, smoothing / static_cast<Number>(classes), loss);
}
template <class Real>
RHO_HOST_DEVICE Real loss_of(const RowStats<Real>& row, Method method, int64_t classes,
                             Real smoothing) {
  return cross_entropy(log_sum_of(row, method), gap_of(row.max, row.label), row.distance, classes,
                       smoothing, [](Real a, Real b, Real c) { return a * b + c; });
}

// Return the norm of softmax - onehot. The label's term 1 - p_y is a sum over the other classes, so
// that it keeps its digits for an example that is almost learnt.
template <class Real>
RHO_HOST_DEVICE Real grad_norm_of(const RowStats<Real>& row) {
  const Real scale = scale_of(row);
  const Real total = row.sum * scale + std::exp(-gap_of(row.max, row.label));
  return std::sqrt(row.sum * row.sum + row.moment) * scale / total;
}

// Return the entropy, or NaN for a row without a finite logit: it has no softmax, and its sums are
// 0.
template <class Real>
RHO_HOST_DEVICE Real entropy_of(const RowStats<Real>& row) {
  return row.log_sum + row.moment / row.sum;
}

// `loss` and `il` have the arithmetic type of the op, so that a float32 score is exactly the
// difference of the float32 loss that the caller sees and the IL.
template <class Real, class Stats>
RHO_HOST_DEVICE Real score_of(Method method, const RowStats<Stats>& row, Real loss, Real il) {
  switch (method) {
    case Method::kRho:
      return loss - il;
    case Method::kLoss:
      break;
    case Method::kNegIl:
      return -il;
    case Method::kGradNorm:
      return static_cast<Real>(grad_norm_of(row));
    case Method::kEntropy:
      return static_cast<Real>(entropy_of(row));
    case Method::kLogSumExp:
      return static_cast<Real>(row.max + row.log_sum);
  }
  return loss;
}

}  // namespace rho_ext
