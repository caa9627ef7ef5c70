// The sums of a row, relative to its largest logit so far. They cost one exp for each logit, and
// one rescaling for each chunk with a new largest logit.
#pragma once

#include "cuda/intrinsics.cuh"
#include "cuda/plan.h"

namespace rho_ext {

inline constexpr float kLog2E = 1.44269504f;

// The sums beside exp(x - max), for kernels with kNeedsMoments. Of the methods, without label
// smoothing, only grad_norm and entropy need them.
struct ExtraSums {
  bool entropy;        // moment: sum of exp(x - max) * (max - x), else of exp(x - max)^2
  bool without_label;  // grad_norm: max, sum and moment exclude the label's logit
  bool smoothing;      // total: sum of x
};

struct RowSums {
  float max;
  float sum;
  float moment;
  // In double, so that one logit far below the others does not cost digits of the sum.
  double total;
};
static_assert(sizeof(RowSums) == kPartialBytes);

__device__ __forceinline__ RowSums empty_sums() { return {-INFINITY, 0.0f, 0.0f, 0.0}; }

// Moments weigh small terms by large factors, so they need the exact exp.
template <bool kNeedsMoments>
__device__ __forceinline__ float exp_of(float t) {
  return kNeedsMoments ? std::exp(t) : exp2_approx(t * kLog2E);
}

// Return the maximum, or 0 if every logit so far was -inf: x - (-inf) would be NaN.
__device__ __forceinline__ float safe_max(float largest) {
  return largest == -INFINITY ? 0.0f : largest;
}

// Make the sums relative to a new maximum, at least as large as the old one.
template <bool kNeedsMoments>
__device__ __forceinline__ void rescale(RowSums& sums, float larger, const ExtraSums& extra) {
  // Sums relative to -inf are 0 or NaN; a NaN must stay.
  const float shift = sums.max == larger ? 0.0f : larger - sums.max;
  const float factor = exp_of<kNeedsMoments>(-shift);
  if constexpr (kNeedsMoments) {
    if (factor == 0.0f) {
      // `shift` may be infinite, and 0 * inf is NaN.
      sums.moment *= 0.0f;
    } else if (extra.entropy) {
      sums.moment = factor * (sums.moment + shift * sums.sum);
    } else {
      sums.moment *= factor * factor;
    }
  }
  sums.sum *= factor;
  sums.max = larger;
}

// Number of logits that are added at a time.
inline constexpr int kChunk = 16;

// Label smoothing: add the logits of a chunk with an index below `end` to the total.
template <class IndexOf>
__device__ __forceinline__ void add_to_total(RowSums& sums, const float (&x)[kChunk],
                                             const ExtraSums& extra, int end,
                                             const IndexOf& index_of) {
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    if (extra.smoothing && index_of(i) < end) {
      sums.total += static_cast<double>(x[i]);
    }
  }
}

// grad_norm: exclude the label's logit from a chunk.
template <class IndexOf>
__device__ __forceinline__ void exclude_label(float (&x)[kChunk], const ExtraSums& extra, int label,
                                              const IndexOf& index_of) {
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    x[i] = extra.without_label && index_of(i) == label ? -INFINITY : x[i];
  }
}

// Add a chunk, in which -inf stands for logits past the end of the row.
template <bool kNeedsMoments>
__device__ __forceinline__ void add_chunk(RowSums& sums, const float (&x)[kChunk],
                                          const ExtraSums& extra) {
  // Two chains: a single one would wait for each step.
  float even = x[0];
  float odd = x[1];
#pragma unroll
  for (int i = 2; i < kChunk; i += 2) {
    even = fmaxf(even, x[i]);
    odd = fmaxf(odd, x[i + 1]);
  }
  const float largest = fmaxf(even, odd);
  if (largest > sums.max) {
    rescale<kNeedsMoments>(sums, largest, extra);
  }
  const float base = safe_max(sums.max);
  // The first four values start the partial sums, which saves four additions.
  float parts[4];
  float moments[4] = {};
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    const float t = x[i] - base;
    const float e = exp_of<kNeedsMoments>(t);
    parts[i % 4] = i < 4 ? e : parts[i % 4] + e;
    if constexpr (kNeedsMoments) {
      // Add 0 where exp is 0: for t = -inf the product would be NaN.
      moments[i % 4] += extra.entropy ? (e == 0.0f ? 0.0f : -e * t) : e * e;
    }
  }
  sums.sum += (parts[0] + parts[1]) + (parts[2] + parts[3]);
  if constexpr (kNeedsMoments) {
    sums.moment += (moments[0] + moments[1]) + (moments[2] + moments[3]);
  }
}

template <bool kNeedsMoments>
__device__ __forceinline__ RowSums merge(RowSums a, RowSums b, const ExtraSums& extra) {
  const float largest = fmaxf(a.max, b.max);
  rescale<kNeedsMoments>(a, largest, extra);
  rescale<kNeedsMoments>(b, largest, extra);
  a.sum += b.sum;
  if constexpr (kNeedsMoments) {
    a.moment += b.moment;
    a.total += b.total;
  }
  return a;
}

// Merge the sums of neighbouring lanes, a power of two of them. All lanes get the result.
template <bool kNeedsMoments>
__device__ __forceinline__ RowSums merge_lanes(RowSums sums, int lanes, const ExtraSums& extra) {
  // Always five steps, without a branch between them.
  float largest = sums.max;
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const float other = __shfl_xor_sync(kAllLanes, largest, distance);
    largest = distance < lanes ? fmaxf(largest, other) : largest;
  }
  rescale<kNeedsMoments>(sums, largest, extra);
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const float other = __shfl_xor_sync(kAllLanes, sums.sum, distance);
    sums.sum = distance < lanes ? sums.sum + other : sums.sum;
    if constexpr (kNeedsMoments) {
      const float moment = __shfl_xor_sync(kAllLanes, sums.moment, distance);
      sums.moment = distance < lanes ? sums.moment + moment : sums.moment;
      const double total = __shfl_xor_sync(kAllLanes, sums.total, distance);
      sums.total = distance < lanes ? sums.total + total : sums.total;
    }
  }
  return sums;
}

}  // namespace rho_ext
