// Rows of no more classes than a vector has lanes, as many at a time: transposed, so that a vector
// holds one class of all rows, no lane is idle and nothing is folded. Included only by rows.inc.
#pragma once

#include "cpu/row_parts.h"

namespace rho_ext {
namespace {

// Turns as many rows as a vector has lanes into columns; where there are no more, the last again.
template <class T>
inline void load_columns(const RowBlock& rows, int64_t first, int64_t count,
                         vector_t<compute_t<T>>* columns) {
  using Real = compute_t<T>;
  constexpr int kCount = kLanes<Real>;
  int64_t end = rows.before + first * rows.stride + rows.classes;
  const T* batch = static_cast<const T*>(rows.logits) - rows.before;
#pragma GCC unroll 16
  for (int i = 0; i < kCount; ++i) {
    const T* x = batch + end;
    fetch_ahead(x);
    fetch_into_l2(rows.soon[first + i]);
    T padded[kCount];
    if (end < kCount) [[unlikely]] {
      // A vector that ends with the row would begin before the batch.
      __builtin_memset(padded, 0, sizeof(padded));
      for (int64_t c = 1; c <= rows.classes; ++c) {
        padded[kCount - c] = x[-c];
      }
      x = padded + kCount;
    }
    columns[i] = widen(x - kCount);
    end += i + 1 < count ? rows.stride : 0;
  }
  transpose<Real>(columns);
}

template <class T, Reduction kReduction>
inline void reduce_narrow_rows(const RowBlock& rows, BlockStats& stats) {
  using Real = compute_t<T>;
  using V = vector_t<Real>;
  using Wide = wide_t<Real>;
  constexpr int kCount = kLanes<Real>;
  const V lowest = V{} + kLowest<Real>;
  for (int64_t first = 0; first < rows.rows; first += kCount) {
    const int64_t here = rows.rows - first < kCount ? rows.rows - first : kCount;
    V columns[kCount];
    load_columns<T>(rows, first, here, columns);
    const V* classes = columns + (kCount - rows.classes);
    lanes_t<Real> labels{};
    for (int64_t i = 0; i < here; ++i) {
      labels[i] = static_cast<int32_t>(rows.labels[first + i]);
    }
    auto counted = [&](int32_t c) {
      return kReduction == kOthers ? (labels == c ? lowest : classes[c]) : classes[c];
    };
    V label{};
    V largest = lowest;
    for (int32_t c = 0; c < rows.classes; ++c) {
      label = labels == c ? classes[c] : label;
      largest = kMax(counted(c), largest);
    }
    const V base = base_of(largest);
    LaneSums<kReduction, Real> total;
    for (int32_t c = 0; c < rows.classes; ++c) {
      const V t = counted(c) - base;
      total.add(t, exp_lanes(t));
    }
    store_stats<kReduction, Real>(largest, total, first, stats);
    store_wide<Real>(label, stats.label + first);
    if (rows.smoothing != 0) {
      const V top = base_of(kReduction == kOthers ? max(label, largest) : largest);
      Wide distance{};
      for (int32_t c = 0; c < rows.classes; ++c) {
        distance += __builtin_convertvector(top - classes[c], Wide);
      }
      store(stats.distance + first, distance);
    }
  }
}

}  // namespace
}  // namespace rho_ext
