// Rows of some vectors, as many at a time as a vector has lanes. Each row fills vectors of its own;
// what is left of it, a vector of partial maxima and one of partial sums, is folded for all rows
// together, so that no step waits for the lanes of one row. Included only by rows.inc.
#pragma once

#include "cpu/row_parts.h"

namespace rho_ext {
namespace {

// As many rows of this length lie in the L1 cache together.
constexpr int64_t kShortRow = 512;

// For the loss alone, which reads a row once, longer ones gain too.
constexpr int64_t kShortRowByLabel = kBlock<float>;

template <class T, Reduction kReduction>
inline bool is_short(const RowBlock& rows) {
  return rows.classes <=
         (label_is_base<kReduction, compute_t<T>>(rows) ? kShortRowByLabel : kShortRow);
}

template <class T>
inline float offset_at(const T* label) {
  return offset_of(static_cast<float>(widen_one(label)));
}

// Rows that are summed side by side: the steps of one fill the time that another's take. A row has
// one chain, so in longer ones the rounding would show.
constexpr int kRowsAtOnce = 4;
constexpr int64_t kLongestAtOnce = 32 * kLanes<float>;

// The sums of 2^(x log2(e) - offset) of each lane of kRowsAtOnce rows.
template <class T>
inline void sum_rows_above(const T* const* starts, const T* const* labels, int64_t classes,
                           FloatVector* sums) {
  constexpr int kStep = kLanes<float>;
  FloatVector totals[kRowsAtOnce] = {};
  float offsets[kRowsAtOnce];
  for (int row = 0; row < kRowsAtOnce; ++row) {
    offsets[row] = offset_at(labels[row]);
  }
  auto power = [&](int row, FloatVector x) { return power_above(x, FloatVector{} + offsets[row]); };
  int64_t c = 0;
  for (; c + 2 * kStep <= classes; c += 2 * kStep) {
#pragma GCC unroll 4
    for (int row = 0; row < kRowsAtOnce; ++row) {
      const T* x = starts[row] + c;
      fetch_ahead(x, 2 * kStep);
      const TwoVectors<T> two = widen_two(x);
      totals[row] = power(row, two.first).add_to(totals[row]);
      totals[row] = power(row, two.second).add_to(totals[row]);
    }
  }
#pragma GCC unroll 4
  for (int row = 0; row < kRowsAtOnce; ++row) {
    const Logits<T, kLogSumExp> logits{starts[row], classes, -1};
    fetch_ahead(starts[row] + c, classes - c);
    if (c + kStep <= classes) {
      totals[row] = power(row, logits[c]).add_to(totals[row]);
    }
    if (logits.has_rest()) {
      const FloatVector last = power(row, logits[classes - kStep]).value();
      totals[row] += logits.uncounted() ? FloatVector{} : last;
    }
    sums[row] = totals[row];
  }
}

// The logits at these places, as many as a vector has lanes.
template <class T>
inline FloatVector widen_each(const T* const* places) {
  return [=]<int... kLane>(std::integer_sequence<int, kLane...>) {
    return FloatVector{static_cast<float>(widen_one(places[kLane]))...};
  }(std::make_integer_sequence<int, kLanes<float>>{});
}

// The sums of rows for the loss alone, relative to the label's logit: no maximum is looked for. The
// row alone decides whether that will do, so that no neighbour changes a bit.
template <class T>
inline void sum_by_label(const T* const* starts, const T* const* labels, int64_t classes,
                         int64_t here, int64_t first, BlockStats& stats) {
  constexpr int kCount = kLanes<float>;
  FloatVector lanes[kCount];
  for (int64_t row = here; row < kCount; ++row) {
    lanes[row] = FloatVector{};
  }
  if (classes <= kLongestAtOnce) {
    for (int64_t row = 0; row < here; row += kRowsAtOnce) {
      sum_rows_above(starts + row, labels + row, classes, lanes + row);
    }
  } else {
    for (int64_t row = 0; row < here; ++row) {
      const Logits<T, kLogSumExp> logits{starts[row], classes, -1};
      lanes[row] = sum_above(logits, offset_at(labels[row]));
    }
  }
  const FloatVector sums = fold_each<float>(lanes, kSum);
  const auto wide = [](FloatVector v) { return __builtin_convertvector(v, WideVector); };
  const FloatVector label = widen_each(labels);
  const FloatVector offset = offset_of(label);
  const FloatVector power = power_above(label, offset).value();
  store(stats.label + first, wide(label));
  store(stats.max + first, wide(label));
  store(stats.sum + first, true_sum(wide(sums), wide(power), wide(label), wide(offset)));
  const FloatVector one = FloatVector{} + 1.0f;
  const FloatVector bad = sums <= kLargestSum && is_exact_enough(offset) ? one - one : one;
  if (fold<float>(bad, kMax) == 0.0f) [[likely]] {
    return;
  }
  for (int64_t i = 0; i < here; ++i) {
    if (bad[i] != 0.0f) {
      const Logits<T, kLogSumExp> logits{starts[i], classes, -1};
      const float largest = fold<float>(logits.max(), kMax);
      const auto total = lane_sums(logits, base_of(largest));
      stats.max[first + i] = static_cast<double>(largest);
      stats.sum[first + i] = static_cast<double>(fold<float>(total.sum, kSum));
    }
  }
}

template <class T, Reduction kReduction>
inline void reduce_short_rows(const RowBlock& rows, BlockStats& stats) {
  using Real = compute_t<T>;
  using V = vector_t<Real>;
  constexpr int kCount = kLanes<Real>;
  const T* starts[kCount];
  const T* labels[kCount];
  auto logits_of = [&](int64_t i, int64_t row) {
    return Logits<T, kReduction>{starts[i], rows.classes,
                                 kReduction == kOthers ? rows.labels[row] : -1};
  };
  for (int64_t first = 0; first < rows.rows; first += kCount) {
    const int64_t here = rows.rows - first < kCount ? rows.rows - first : kCount;
    for (int64_t i = 0; i < kCount; ++i) {
      // Where there are no more rows, the last one again.
      const int64_t row = first + (i < here ? i : here - 1);
      starts[i] = static_cast<const T*>(rows.logits) + row * rows.stride;
      labels[i] = starts[i] + (rows.labels[row] < 0 ? 0 : rows.labels[row]);
      rows.soon.fetch(row);
    }
    if constexpr (std::is_same_v<Real, float>) {
      if (label_is_base<kReduction, Real>(rows)) {
        sum_by_label(starts, labels, rows.classes, here, first, stats);
        continue;
      }
    }
    for (int64_t i = 0; i < here; ++i) {
      stats.label[first + i] = widen_one(labels[i]);
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
