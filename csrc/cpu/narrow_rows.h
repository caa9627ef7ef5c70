// Reduce rows of at most kLanes classes, kLanes rows at a time. The rows are transposed: a vector
// holds one class of all rows, so no lane is idle and no vector is reduced. Included only by
// rows.inc.
#pragma once

#include "cpu/row_parts.h"

namespace rho_ext {
namespace {

// Load a vector from pieces. Each has the logits that take 16 bytes after conversion.
template <class T>
inline vector_t<compute_t<T>> load_pieces(const void* const (&from)[kPieces]) {
  if constexpr (sizeof(T) == 2) {
    const HalfVector pieces = join_half_pieces(from);
    return load_logits(reinterpret_cast<const T*>(&pieces));
  } else {
    return (vector_t<T>)join_pieces(from);
  }
}

// Load kLanes rows as columns. A vector is loaded from a piece of every `kStep`th row, and the
// pieces are transposed.
template <class T>
inline void load_columns(const T* x, int64_t stride, int64_t width,
                         vector_t<compute_t<T>>* columns) {
  using Real = compute_t<T>;
  constexpr int kStep = kPieceLanes<Real>;
  for (int64_t c = 0; c < width; c += kStep) {
#pragma GCC unroll 4
    for (int i = 0; i < kStep; ++i) {
      const void* from[kPieces];
#pragma GCC unroll 4
      for (int piece = 0; piece < kPieces; ++piece) {
        from[piece] = x + c + (i + piece * kStep) * stride;
      }
      columns[c + i] = load_pieces<T>(from);
    }
    transpose_pieces<Real>(columns + c);
  }
}

// A copy of kLanes rows, for the first rows of a batch and the last rows of a block: pieces before
// the first and rows after the last may lie outside of the batch.
template <class T>
struct Padded {
  static constexpr int kCount = kLanes<compute_t<T>>;
  T rows[kCount][kCount];

  const T* copy(const T* x, int64_t stride, int64_t count, int64_t classes, int64_t width) {
    __builtin_memset(rows, 0, sizeof(rows));
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t c = 0; c < classes; ++c) {
        rows[i][width - classes + c] = x[i * stride + c];
      }
    }
    return rows[0];
  }
};

template <class T, Reduction kReduction>
inline void reduce_narrow_rows(const RowBlock& rows, BlockStats& stats) {
  using Real = compute_t<T>;
  using V = vector_t<Real>;
  using Wide = wide_t<Real>;
  constexpr int kCount = kLanes<Real>;
  const V lowest = V{} + kLowest<Real>;
  constexpr int kStep = kPieceLanes<Real>;
  // The columns end with the last class. Before the first class there may be unused columns.
  const int64_t width = (rows.classes + kStep - 1) / kStep * kStep;
  const int64_t before = width - rows.classes;
  constexpr int64_t kLine = kCacheLine / static_cast<int64_t>(sizeof(T));
  const int64_t line = rows.stride < kLine ? kLine : rows.stride;
  for (int64_t first = 0; first < rows.rows; first += kCount) {
    const int64_t here = rows.rows - first < kCount ? rows.rows - first : kCount;
    const T* x = static_cast<const T*>(rows.logits) + first * rows.stride;
    for (int64_t at = 0; at < kCount * rows.stride; at += line) {
      prefetch_ahead(x + at);
    }
    V columns[kCount];
    if (here == kCount && rows.before + first * rows.stride >= before) [[likely]] {
      load_columns(x - before, rows.stride, width, columns);
    } else {
      Padded<T> padded;
      load_columns(padded.copy(x, rows.stride, here, rows.classes, width), kCount, width, columns);
    }
    const V* classes = columns + before;
    for (int i = 0; i < kCount; ++i) {
      rows.il_prefetch.prefetch(first + i);
    }
    // Rows past the last one have any label.
    const auto labels =
        __builtin_convertvector(load<wide_lanes_t<Real>>(rows.labels + first), lanes_t<Real>);
    auto counted = [&](int32_t c) {
      return kReduction == kWithoutLabel ? (labels == c ? lowest : classes[c]) : classes[c];
    };
    V label{};
    V largest = lowest;
    for (int32_t c = 0; c < rows.classes; ++c) {
      label = labels == c ? classes[c] : label;
      largest = kMax(counted(c), largest);
    }
    const V base = safe_max(largest);
    LaneSums<kReduction, Real> total;
    for (int32_t c = 0; c < rows.classes; ++c) {
      const V t = counted(c) - base;
      total.add(t, exp_lanes(t));
    }
    store_stats<kReduction, Real>(largest, total, first, stats);
    store_as_double<Real>(label, stats.label + first);
    if (rows.smoothing != 0) {
      const V top = safe_max(kReduction == kWithoutLabel ? max(label, largest) : largest);
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
