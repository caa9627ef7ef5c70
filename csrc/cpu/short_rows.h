// Reduce rows of a few vectors, kLanes rows at a time. Each row gives a vector of partial maxima
// and one of partial sums. Those of all rows are reduced together, so that no step waits for the
// lanes of one row. Included only by rows.inc.
#pragma once

#include "cpu/row_parts.h"

namespace rho_ext {
namespace {

// Most classes of a short row: kLanes such rows fit in the L1 cache.
constexpr int64_t kShortRow = 512;

// The loss alone reads a row once, so longer rows gain, too.
constexpr int64_t kShortRowRelativeToLabel = kBlock<float>;

template <class T, Reduction kReduction>
inline bool is_short(const RowBlock& rows) {
  return rows.classes <= (is_relative_to_label<kReduction, compute_t<T>>(rows)
                              ? kShortRowRelativeToLabel
                              : kShortRow);
}

template <class T>
inline float offset_at(const T* label) {
  return offset_of(static_cast<float>(load_logit(label)));
}

// Rows that are summed side by side, to hide latency. Each row has one chain, so the rows must be
// short, or the chain would round too often.
constexpr int kRowsAtOnce = 4;
constexpr int64_t kLongestAtOnce = 32 * kLanes<float>;

// Write the sums of 2^(x log2(e) - offset) of each lane of kRowsAtOnce rows.
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
      prefetch_ahead(x, 2 * kStep);
      const TwoVectors<T> two = load_two_vectors(x);
      totals[row] = power(row, two.first).add_to(totals[row]);
      totals[row] = power(row, two.second).add_to(totals[row]);
    }
  }
#pragma GCC unroll 4
  for (int row = 0; row < kRowsAtOnce; ++row) {
    const Logits<T, kLogSumExp> logits{starts[row], classes, -1};
    prefetch_ahead(starts[row] + c, classes - c);
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

// Load kLanes logits from these addresses.
template <class T>
inline FloatVector load_each(const T* const* places) {
  return [=]<int... kLane>(std::integer_sequence<int, kLane...>) {
    return FloatVector{static_cast<float>(load_logit(places[kLane]))...};
  }(std::make_integer_sequence<int, kLanes<float>>{});
}

// Sum rows for the loss alone, relative to the label's logit, without finding a maximum. Rows for
// which this is not accurate are summed again. The decision depends on the row alone, so that no
// neighbour changes its bits.
template <class T>
inline void sum_relative_to_label(const T* const* starts, const T* const* labels, int64_t classes,
                                  int64_t here, int64_t first, float most, BlockStats& stats) {
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
  const FloatVector sums = reduce_each<float>(lanes, kSum);
  const auto wide = [](FloatVector v) { return __builtin_convertvector(v, WideVector); };
  const FloatVector label = load_each(labels);
  const FloatVector offset = offset_of(label);
  const FloatVector power = power_above(label, offset).value();
  store(stats.label + first, wide(label));
  store(stats.max + first, wide(label));
  store(stats.sum + first, corrected_sum(wide(sums), wide(power), wide(label), wide(offset)));
  const FloatVector one = FloatVector{} + 1.0f;
  const FloatVector bad = sums <= most && is_correctable(offset) ? one - one : one;
  if (reduce<float>(bad, kMax) == 0.0f) [[likely]] {
    return;
  }
  for (int64_t i = 0; i < here; ++i) {
    if (bad[i] != 0.0f) {
      const Logits<T, kLogSumExp> logits{starts[i], classes, -1};
      const float largest = reduce<float>(logits.max(), kMax);
      const auto total = lane_sums(logits, safe_max(largest));
      stats.max[first + i] = static_cast<double>(largest);
      stats.sum[first + i] = static_cast<double>(reduce<float>(total.sum, kSum));
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
                                 kReduction == kWithoutLabel ? rows.labels[row] : -1};
  };
  for (int64_t first = 0; first < rows.rows; first += kCount) {
    const int64_t here = rows.rows - first < kCount ? rows.rows - first : kCount;
    for (int64_t i = 0; i < kCount; ++i) {
      // Past the last row, repeat it.
      const int64_t row = first + (i < here ? i : here - 1);
      starts[i] = static_cast<const T*>(rows.logits) + row * rows.stride;
      labels[i] = starts[i] + (rows.labels[row] < 0 ? 0 : rows.labels[row]);
      rows.il_prefetch.prefetch(row);
    }
    if constexpr (std::is_same_v<Real, float>) {
      if (is_relative_to_label<kReduction, Real>(rows)) {
        sum_relative_to_label(starts, labels, rows.classes, here, first, rows.most, stats);
        continue;
      }
    }
    for (int64_t i = 0; i < here; ++i) {
      stats.label[first + i] = load_logit(labels[i]);
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
    const V largest = reduce_each<Real>(lanes, kMax);
    Real base[kCount];
    store(base, safe_max(largest));
    for (int64_t i = 0; i < here; ++i) {
      const auto sums = lane_sums(logits_of(i, first + i), base[i]);
      lanes[i] = sums.sum;
      moments[i] = sums.moment;
    }
    LaneSums<kReduction, Real> total{reduce_each<Real>(lanes, kSum), V{}};
    if constexpr (kReduction != kLogSumExp) {
      total.moment = reduce_each<Real>(moments, kSum);
    }
    store_stats<kReduction, Real>(largest, total, first, stats);
    for (int64_t i = 0; rows.smoothing != 0 && i < here; ++i) {
      const Logits<T, kLogSumExp> all{starts[i], rows.classes, -1};
      stats.distance[first + i] = distance(all, safe_max(reduce<Real>(all.max(), kMax)));
    }
  }
}

}  // namespace
}  // namespace rho_ext
