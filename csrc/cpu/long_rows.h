// Reduce rows of many classes, one after another. A row is read from memory once, in blocks that
// stay in the L1 cache. Each block gives its maximum first, then sums relative to the largest logit
// so far. When that grows, the sums are rescaled. Included only by rows.inc.
#pragma once

#include "cpu/row_parts.h"

namespace rho_ext {
namespace {

template <Reduction kReduction, class Real>
struct RowSums {
  Real max = kLowest<Real>;
  double sum = 0.0;
  double moment = 0.0;

  // Add a block without finding its maximum first. If the maximum is too far above `max`, change
  // nothing and return false.
  template <class T>
  bool add_in_one_pass(const Logits<T, kReduction>& logits, bool has_label, float most) {
    const float offset = offset_of(max);
    const float powers = reduce<float>(sum_above(logits, offset), kSum);
    if (!(powers <= most && is_correctable(offset))) {
      return false;
    }
    const auto of = [](float v) { return static_cast<double>(v); };
    const float label = power_above(FloatVector{} + max, FloatVector{} + offset).value()[0];
    sum += has_label ? corrected_sum(of(powers), of(label), of(max), of(offset))
                     : of(powers) * rounding_correction(of(max), of(offset));
    return true;
  }

  template <class T>
  void add(const Logits<T, kReduction>& logits) {
    const Real largest = reduce<Real>(logits.max(), kMax);
    if (largest > max) {
      rescale(largest);
    }
    const auto lanes = lane_sums(logits, safe_max(max));
    sum += static_cast<double>(reduce<Real>(lanes.sum, kSum));
    if constexpr (kReduction != kLogSumExp) {
      moment += static_cast<double>(reduce<Real>(lanes.moment, kSum));
    }
  }

 private:
  // Make the sums relative to a larger maximum.
  void rescale(Real larger) {
    const double shift = static_cast<double>(larger) - static_cast<double>(max);
    // A NaN must stay; otherwise sums relative to -inf are 0.
    const double factor = max == kLowest<Real> ? 0.0 : __builtin_exp(-shift);
    if (factor == 0.0) {
      // `shift` may be infinite, and 0 * inf is NaN. This product keeps an earlier NaN.
      moment *= 0.0;
    } else if (kReduction == kEntropySum) {
      moment = factor * multiply_add(shift, sum, moment);
    } else {
      moment *= factor * factor;
    }
    sum *= factor;
    max = larger;
  }
};

// Label smoothing: the sum of (top - x) over the blocks so far; top is their largest logit.
template <class Real>
struct Distance {
  Real top = kLowest<Real>;
  double sum = 0.0;

  template <class T>
  void add(const Logits<T, kLogSumExp>& logits, int64_t before) {
    const Real largest = reduce<Real>(logits.max(), kMax);
    if (largest > top) {
      const double shift = static_cast<double>(largest) - static_cast<double>(top);
      sum += before == 0 ? 0.0 : static_cast<double>(before) * shift;
      top = largest;
    }
    sum += distance(logits, safe_max(top));
  }
};

template <class T, Reduction kReduction>
inline void reduce_long_rows(const RowBlock& rows, BlockStats& stats) {
  using Real = compute_t<T>;
  const T* x = static_cast<const T*>(rows.logits);
  for (int64_t row = 0; row < rows.rows; ++row, x += rows.stride) {
    rows.il_prefetch.prefetch(row);
    const int64_t label = rows.labels[row];
    if (label < 0) {
      continue;
    }
    RowSums<kReduction, Real> sums;
    Distance<Real> distance;
    const bool one_pass = is_relative_to_label<kReduction, Real>(rows);
    if (one_pass) {
      sums.max = static_cast<Real>(load_logit(x + label));
    }
    for (int64_t begin = 0; begin < rows.classes; begin += kBlock<Real>) {
      const int64_t rest = rows.classes - begin;
      const int64_t count = rest < kBlock<Real> ? rest : kBlock<Real>;
      const bool here = label >= begin && label < begin + count;
      const Logits<T, kReduction> logits{x + begin, count, here ? label - begin : -1};
      if constexpr (kReduction == kLogSumExp && std::is_same_v<Real, float>) {
        // If the sums are relative to another logit by now, the label needs no correction.
        const bool has_label = here && sums.max == load_logit(x + label);
        if (one_pass && sums.add_in_one_pass(logits, has_label, rows.most)) {
          continue;
        }
      }
      sums.add(logits);
      if (rows.smoothing != 0) {
        distance.add(Logits<T, kLogSumExp>{x + begin, count, -1}, begin);
      }
    }
    // If every logit is -inf, set the sums to 0, but keep NaN.
    const bool empty = sums.max == kLowest<Real>;
    stats.max[row] = static_cast<double>(sums.max);
    stats.sum[row] = empty ? sums.sum * 0.0 : sums.sum;
    stats.moment[row] = empty ? sums.moment * 0.0 : sums.moment;
    stats.distance[row] = distance.sum;
    stats.label[row] = load_logit(x + label);
  }
}

}  // namespace
}  // namespace rho_ext
