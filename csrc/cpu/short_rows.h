// Rows of some vectors, as many at a time as a vector has lanes. Each row fills vectors of its own;
// what is left of it, a vector of partial maxima and one of partial sums, is folded for all rows
// together, so that no step waits for the lanes of one row. Included only by rows.inc.
#pragma once

#include "cpu/row_parts.h"

namespace rho_ext {
namespace {

// As many rows of this length lie in the L1 cache together.
constexpr int64_t kShortRow = 512;

// The sums of rows for the loss alone, relative to the label's logit: no maximum is looked for. The
// row alone decides whether that will do, so that no neighbour changes a bit.
template <class T>
inline void sum_by_label(const T* const* starts, int64_t classes, int64_t here, int64_t first,
                         BlockStats& stats) {
  constexpr int kCount = kLanes<float>;
  FloatVector lanes[kCount];
  float offsets[kCount] = {};
  bool exact_enough = true;
  for (int64_t i = 0; i < here; ++i) {
    offsets[i] = offset_of(static_cast<float>(stats.label[first + i]));
    exact_enough &= is_exact_enough(offsets[i]);
    lanes[i] = sum_above(Logits<T, kLogSumExp>{starts[i], classes, -1}, offsets[i]);
  }
  for (int64_t i = here; i < kCount; ++i) {
    lanes[i] = FloatVector{};
  }
  const FloatVector sums = fold_each<float>(lanes, kSum);
  const auto wide = [](FloatVector v) { return __builtin_convertvector(v, WideVector); };
  const auto label = load<WideVector>(stats.label + first);
  const auto offset = load<FloatVector>(offsets);
  const FloatVector power = power_above(__builtin_convertvector(label, FloatVector), offset);
  store(stats.max + first, label);
  store(stats.sum + first, true_sum(wide(sums), wide(power), label, wide(offset)));
  if (!(exact_enough && fold<float>(sums, kSum) <= kLargestSum)) [[unlikely]] {
    for (int64_t i = 0; i < here; ++i) {
      if (!(sums[i] <= kLargestSum && is_exact_enough(offsets[i]))) {
        const Logits<T, kLogSumExp> logits{starts[i], classes, -1};
        const float largest = fold<float>(logits.max(), kMax);
        const auto total = lane_sums(logits, base_of(largest));
        stats.max[first + i] = static_cast<double>(largest);
        stats.sum[first + i] = static_cast<double>(fold<float>(total.sum, kSum));
      }
    }
  }
}

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
      fetch_into_l2(rows.soon[row]);
    }
    if constexpr (std::is_same_v<Real, float>) {
      if (label_is_base<kReduction, Real>(rows)) {
        sum_by_label<T>(starts, rows.classes, here, first, stats);
        continue;
      }
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
      const auto sums = lane_sums(logits_of(i, first + i), base[i]);
      lanes[i] = sums.sum;
      moments[i] = sums.moment;
    }
    LaneSums<kReduction, Real> total{fold_each<Real>(lanes, kSum), V{}};
    if constexpr (kReduction != kLogSumExp) {
      total.moment = fold_each<Real>(moments, kSum);
    }
    store_stats<kReduction, Real>(largest, total, first, stats);
    for (int64_t i = 0; rows.smoothing != 0 && i < here; ++i) {
      const Logits<T, kLogSumExp> all{starts[i], rows.classes, -1};
      stats.distance[first + i] = distance(all, base_of(fold<Real>(all.max(), kMax)));
    }
  }
}

}  // namespace
}  // namespace rho_ext
