// The sums of a row, relative to its largest logit so far: one exp for each logit, and one
// rescaling for each chunk in which the largest grows.
#pragma once

#include "cuda/intrinsics.cuh"
#include "cuda/plan.h"

namespace rho_ext {

inline constexpr float kLog2E = 1.44269504f;

// What a launch sums beside exp(x - max), if kFull; the usual methods need no more than that.
struct FullSums {
  bool entropy;        // moment: sum of exp(x - max) * (max - x), else of exp(x - max)^2
  bool without_label;  // grad_norm: max, sum and moment leave the label's logit out
  bool smoothing;      // total: sum of x
};

struct RowSums {
  float max;
  float sum;
  float moment;
  // In double, because one logit far below the others must not take their digits.
  double total;
};
static_assert(sizeof(RowSums) == kPartialBytes);

__device__ __forceinline__ RowSums no_sums() { return {-INFINITY, 0.0f, 0.0f, 0.0}; }

// The further methods weigh small terms by large factors, so they take the exact exp.
template <bool kFull>
__device__ __forceinline__ float exp_of(float t) {
  return kFull ? std::exp(t) : exp2_approx(t * kLog2E);
}

// While every logit was -inf, differences from -inf would be NaN; from 0 they stay -inf.
__device__ __forceinline__ float base_of(float largest) {
  return largest == -INFINITY ? 0.0f : largest;
}

// Makes the sums relative to a larger maximum, or to the same.
template <bool kFull>
__device__ __forceinline__ void rescale(RowSums& sums, float larger, const FullSums& full) {
  // Sums relative to -inf are 0, or NaN, which must stay.
  const float shift = sums.max == larger ? 0.0f : larger - sums.max;
  const float factor = exp_of<kFull>(-shift);
  if constexpr (kFull) {
    if (factor == 0.0f) {
      // `shift` may be infinite, and 0 * inf is NaN.
      sums.moment *= 0.0f;
    } else if (full.entropy) {
      sums.moment = factor * (sums.moment + shift * sums.sum);
    } else {
      sums.moment *= factor * factor;
    }
  }
  sums.sum *= factor;
  sums.max = larger;
}

// Logits that are added at a time.
inline constexpr int kChunk = 16;

// The logits of a chunk that lie in the row, those at a place below `end`, for label smoothing.
template <class Place>
__device__ __forceinline__ void add_to_total(RowSums& sums, const float (&x)[kChunk],
                                             const FullSums& full, int end, const Place& place) {
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    if (full.smoothing && place(i) < end) {
      sums.total += static_cast<double>(x[i]);
    }
  }
}

// Takes the label's logit out of a chunk, for grad_norm.
template <class Place>
__device__ __forceinline__ void leave_out(float (&x)[kChunk], const FullSums& full, int label,
                                          const Place& place) {
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    x[i] = full.without_label && place(i) == label ? -INFINITY : x[i];
  }
}

// Adds a chunk, in which -inf fills what the row does not have.
template <bool kFull>
__device__ __forceinline__ void add_chunk(RowSums& sums, const float (&x)[kChunk],
                                          const FullSums& full) {
  // Two at a time: a chain of all of them would wait for each step.
  float even = x[0];
  float odd = x[1];
#pragma unroll
  for (int i = 2; i < kChunk; i += 2) {
    even = fmaxf(even, x[i]);
    odd = fmaxf(odd, x[i + 1]);
  }
  const float largest = fmaxf(even, odd);
  if (largest > sums.max) {
    rescale<kFull>(sums, largest, full);
  }
  const float base = base_of(sums.max);
  // The first four start the parts: adding them to zero would cost an addition each.
  float parts[4];
  float moments[4] = {};
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    const float t = x[i] - base;
    const float e = exp_of<kFull>(t);
    parts[i % 4] = i < 4 ? e : parts[i % 4] + e;
    if constexpr (kFull) {
      // Nothing where exp is nothing: for t = -inf the product would be NaN.
      moments[i % 4] += full.entropy ? (e == 0.0f ? 0.0f : -e * t) : e * e;
    }
  }
  sums.sum += (parts[0] + parts[1]) + (parts[2] + parts[3]);
  if constexpr (kFull) {
    sums.moment += (moments[0] + moments[1]) + (moments[2] + moments[3]);
  }
}

template <bool kFull>
__device__ __forceinline__ RowSums merge(RowSums a, RowSums b, const FullSums& full) {
  const float largest = fmaxf(a.max, b.max);
  rescale<kFull>(a, largest, full);
  rescale<kFull>(b, largest, full);
  a.sum += b.sum;
  if constexpr (kFull) {
    a.moment += b.moment;
    a.total += b.total;
  }
  return a;
}

// Merges the sums of neighbouring lanes, a power of two of them; all of them get the result.
template <bool kFull>
__device__ __forceinline__ RowSums merge_lanes(RowSums sums, int lanes, const FullSums& full) {
  constexpr unsigned kAll = 0xffffffffu;
  float largest = sums.max;
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(kAll, largest, distance));
  }
  rescale<kFull>(sums, largest, full);
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
    sums.sum += __shfl_xor_sync(kAll, sums.sum, distance);
    if constexpr (kFull) {
      sums.moment += __shfl_xor_sync(kAll, sums.moment, distance);
      sums.total += __shfl_xor_sync(kAll, sums.total, distance);
    }
  }
  return sums;
}

}  // namespace rho_ext
