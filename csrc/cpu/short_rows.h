// Rows of some vectors, as many at a time as a vector has lanes. Each row fills vectors of its own;
// what is left of it, a vector of partial maxima and one of partial sums, is folded for all rows
// together, so that no step waits for the lanes of one row. Included only by rows.inc.
#pragma once

#include "cpu/row_parts.h"

namespace rho_ext {
namespace {

// As many rows of this length lie in the L1 cache together.
constexpr int64_t kShortRow = 512;

template <class T, Reduction kReduction>
inline void reduce_short_rows(const RowBlock& rows, BlockStats& stats) {
  using Real = compute_t<T>;
  using V = vector_t<Real>;
  constexpr int kCount = kLanes<Real>;
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
    store(base, base_of(largest));
    for (int64_t i = 0; i < here; ++i) {
      const auto sums = lane_sums<LaneSums<kReduction, Real>>(logits_of(i, first + i), base[i]);
      lanes[i] = sums.sum;
      moments[i] = sums.moment;
    }
    LaneSums<kReduction, Real> total{fold_each<Real>(lanes, kSum), V{}};
    if constexpr (kReduction != kLogSumExp) {
      total.moment = fold_each<Real>(moments, kSum);
    }
    store_stats<kReduction, Real>(largest, total, first, stats);
    for (int64_t i = 0; rows.smoothing && i < here; ++i) {
      const Logits<T, kLogSumExp> all{starts[i], rows.classes, -1};
      stats.distance[first + i] = distance(all, base_of(fold<Real>(all.max(), kMax)));
    }
  }
}

}  // namespace
}  // namespace rho_ext
