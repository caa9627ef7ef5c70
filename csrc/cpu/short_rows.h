// Rows of few classes, as many at a time as a vector has lanes. Each row fills vectors of its own;
// what is left of it, a vector of partial maxima and one of partial sums, is folded for all rows
// together, so that no step waits for the lanes of one row. Included only by rows.inc.
#pragma once

#include "cpu/row_parts.h"

namespace rho_ext {
namespace {

// As many rows of this length lie in the L1 cache together.
constexpr int64_t kShortRow = 512;

template <class Real>
inline void store_wide(vector_t<Real> v, double* to) {
  store(to, __builtin_convertvector(v, wide_t<Real>));
}

template <class T, Reduction kReduction>
inline void reduce_short_rows(const RowBlock& rows, BlockStats& stats) {
  using Real = compute_t<T>;
  using V = vector_t<Real>;
  constexpr int kCount = kLanes<Real>;
  const V lowest = V{} + kLowest<Real>;
  T padded[kCount][2 * kCount];
  const T* starts[kCount];
  auto logits_of = [&](int64_t i, int64_t row) {
    return Logits<T, kReduction>{starts[i], rows.classes,
                                 kReduction == kOthers ? rows.labels[row] : -1};
  };
  for (int64_t first = 0; first < rows.rows; first += kCount) {
    const int64_t here = rows.rows - first < kCount ? rows.rows - first : kCount;
    for (int64_t i = 0; i < here; ++i) {
      const int64_t row = first + i;
      const T* x = static_cast<const T*>(rows.logits) + row * rows.stride;
      const int64_t label = rows.labels[row] < 0 ? 0 : rows.labels[row];
      stats.label[row] = widen_one(x + label);
      if (rows.classes < kCount && rows.before + row * rows.stride < kCount - rows.classes) {
        // The last vector of the row would begin before the batch.
        __builtin_memset(padded[i], 0, sizeof(padded[i]));
        for (int64_t c = 0; c < rows.classes; ++c) {
          padded[i][kCount + c] = x[c];
        }
        x = padded[i] + kCount;
      }
      starts[i] = x;
    }
    V lanes[kCount];
    V moments[kCount];
    for (int64_t i = here; i < kCount; ++i) {
      lanes[i] = V{};
      moments[i] = V{};
    }
    for (int64_t i = 0; i < here; ++i) {
      lanes[i] = logits_of(i, first + i).max();
    }
    const V largest = fold_each<Real>(lanes, kMax);
    Real base[kCount];
    store(base, largest == lowest ? V{} : largest);
    for (int64_t i = 0; i < here; ++i) {
      const auto sums = lane_sums(logits_of(i, first + i), base[i]);
      lanes[i] = sums.sum;
      moments[i] = sums.moment;
    }
    // Where every logit is -inf the sums count for nothing; a NaN beside those must stay.
    const V sum = fold_each<Real>(lanes, kSum);
    store_wide<Real>(largest, stats.max + first);
    store_wide<Real>(largest == lowest ? sum * 0 : sum, stats.sum + first);
    if constexpr (kReduction != kLogSumExp) {
      const V moment = fold_each<Real>(moments, kSum);
      store_wide<Real>(largest == lowest ? moment * 0 : moment, stats.moment + first);
    }
    for (int64_t i = 0; rows.smoothing && i < here; ++i) {
      const Logits<T, kLogSumExp> all{starts[i], rows.classes, -1};
      stats.distance[first + i] = distance(all, base_of(fold<Real>(all.max(), kMax)));
    }
  }
}

}  // namespace
}  // namespace rho_ext
