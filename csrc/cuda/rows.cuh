// Score every row: read its label and irreducible loss, sum its logits, write its loss and score.
#pragma once

#include <type_traits>

#include "common/key.h"
#include "cuda/kernel_params.cuh"

namespace rho_ext {

// In place of the label of a row that is not scored.
inline constexpr int32_t kIgnored = -1;
inline constexpr int32_t kInvalid = -2;

// The inputs of a row beside its logits. Only the label is waited for before the logits are loaded:
// the label's logit stays as it is in memory, since a conversion would wait for it.
template <class T>
struct RowInputs {
  int32_t label = kInvalid;
  T label_logit{};
  float il = 0.0f;
  float bias = 0.0f;
};

template <class T>
__device__ __forceinline__ RowInputs<T> read_inputs(const KernelParams& params, int64_t row) {
  const Batch& batch = params.batch;
  RowInputs<T> inputs;
  const int64_t label = read(batch.labels, row);
  const int64_t id = batch.ids.data != nullptr ? read(batch.ids, row) : row;
  if (batch.bias.data != nullptr) {
    inputs.bias = read(batch.bias, row);
  }
  if (label == batch.ignore_index) {
    inputs.label = kIgnored;
    return inputs;
  }
  // Do not test the pointer of the table: it is null for an empty one, too.
  const bool needs_il = uses_il(batch.method);
  if (label >= 0 && label < batch.classes && (!needs_il || (id >= 0 && id < batch.il_size))) {
    inputs.label = static_cast<int32_t>(label);
    inputs.label_logit = row_start<T>(params, row)[label];
    if (needs_il) {
      inputs.il = read(batch.il, id);
    }
  }
  return inputs;
}

// Compute the loss and the score of a valid row from its sums.
template <class T, bool kNeedsMoments>
__device__ __forceinline__ void score_row(const KernelParams& params, const RowInputs<T>& inputs,
                                          const RowSums& sums, float& loss, float& score) {
  const Batch& batch = params.batch;
  // Moments combine sums of very different sizes, which need double: a few operations a row.
  using Real = std::conditional_t<kNeedsMoments, double, float>;
  RowStats<Real> stats{};
  stats.max = sums.max;
  stats.sum = sums.sum;
  stats.log_sum = std::log(static_cast<Real>(sums.sum));
  stats.label = to_float(inputs.label_logit);
  if constexpr (kNeedsMoments) {
    stats.moment = sums.moment;
    const double top = std::max(stats.max, stats.label);
    stats.distance = static_cast<double>(batch.classes) * top - sums.total;
  }
  loss = static_cast<float>(
      loss_of(stats, batch.method, batch.classes, static_cast<Real>(batch.label_smoothing)));
  score = score_of<float>(batch.method, stats, loss, inputs.il);
  if (batch.bias.data != nullptr) {
    score += inputs.bias;
  }
}

// Write the results of a row. One thread of the row calls it.
template <class T, bool kNeedsMoments>
__device__ __forceinline__ void finish_row(const KernelParams& params, int64_t row,
                                           const RowInputs<T>& inputs, const RowSums& sums) {
  float loss = NAN;
  float score = NAN;
  if (inputs.label == kIgnored) {
    loss = 0.0f;
    score = -INFINITY;
  } else if (inputs.label != kInvalid) {
    score_row<T, kNeedsMoments>(params, inputs, sums, loss, score);
  }
  score = canonical_nan(score);
  params.outputs.losses[row] = canonical_nan(loss);
  if (params.plan.top_k_stage == TopKStage::kNone) {
    params.outputs.scores[row] = score;
    return;
  }
  params.keys[row] = ordered_bits(score);
  if (score != score) {
    atomicAdd(&params.state->invalid, 1u);
  }
}

// Load the packs of a lane before the first is used. Packs from `whole` on are filled with -inf.
template <class T, class Load>
__device__ __forceinline__ void load_packs(uint4 (&bits)[kUnroll], const T* logits, int start,
                                           int lane, int lanes, int whole, const Load& load) {
  const T* first = logits + static_cast<int64_t>(start + lane) * kPackSize<T>;
  const int64_t step = static_cast<int64_t>(lanes) * kPackSize<T>;
  // The condition is equal for all lanes of a warp, so there is no divergence.
  if (start + kUnroll * lanes <= whole) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      bits[u] = load(first + u * step);
    }
    return;
  }
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    bits[u] = negative_infinity<T>();
    if (start + lane + u * lanes < whole) {
      bits[u] = load(first + u * step);
    }
  }
}

// Sum the packs of one lane among the packs [first, last) of a row. Neighbouring lanes take
// neighbouring packs.
template <class T, bool kNeedsMoments>
__device__ __forceinline__ RowSums sum_packs(const KernelParams& params, int64_t row, int label,
                                             int first, int last, int lane, int lanes) {
  constexpr int kCount = kPackSize<T>;
  constexpr int kPacksPerChunk = kChunk / kCount;
  const T* logits = row_start<T>(params, row);
  const int classes = static_cast<int>(params.batch.classes);
  const int alignment = alignment_of(logits);
  const int whole = min(last, classes / kCount);
  RowSums sums = empty_sums();
  for (int start = first; start < last; start += kUnroll * lanes) {
    const int base = start + lane;
    uint4 bits[kUnroll];
    if (alignment == kPackBytes) {
      load_packs(bits, logits, start, lane, lanes, whole,
                 [](const T* from) { return load_once(from); });
    } else {
      load_packs(bits, logits, start, lane, lanes, whole,
                 [alignment](const T* from) { return load_unaligned(from, alignment); });
    }
    if (whole < last) {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (base + u * lanes == whole) {
          bits[u] = load_last_pack(logits, whole * kCount, classes);
        }
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; u += kPacksPerChunk) {
      float x[kChunk];
#pragma unroll
      for (int i = 0; i < kPacksPerChunk; ++i) {
        pack_to_float<T>(bits[u + i], x + i * kCount);
      }
      const auto index_of = [&](int i) {
        return (base + (u + i / kCount) * lanes) * kCount + i % kCount;
      };
      if constexpr (kNeedsMoments) {
        add_to_total(sums, x, params.extra, min(classes, last * kCount), index_of);
        exclude_label(x, params.extra, label, index_of);
      }
      add_chunk<kNeedsMoments>(sums, x, params.extra);
    }
  }
  return sums;
}

// Score rows with groups of lanes. A group takes several rows, one after another: each of its lanes
// reads the inputs of one of them and finishes it.
template <class T, bool kNeedsMoments>
__device__ __forceinline__ void score_by_lane_groups(const KernelParams& params) {
  const int lanes = params.plan.lanes;
  const int lane = static_cast<int>(threadIdx.x) & (lanes - 1);
  const int group_rows = params.plan.group_rows;
  const int packs = static_cast<int>(params.plan.slice_packs);
  const int64_t block_rows = static_cast<int>(blockDim.x) / lanes * group_rows;
  // All lanes of a warp stay in the loop, also those without a row, because they shuffle together.
  for (int64_t base = blockIdx.x * block_rows; base < params.batch.rows;
       base += gridDim.x * block_rows) {
    const int64_t first = base + static_cast<int>(threadIdx.x) / lanes * group_rows;
    const bool here = lane < group_rows && first + lane < params.batch.rows;
    RowInputs<T> inputs;
    if (here) {
      inputs = read_inputs<T>(params, first + lane);
    }
    RowSums mine = empty_sums();
    for (int i = 0; i < group_rows; ++i) {
      // Negative, as of a row that is not scored, if there is no such row.
      const int label = __shfl_sync(kAllLanes, inputs.label, i, lanes);
      RowSums sums = empty_sums();
      if (label >= 0) {
        sums = sum_packs<T, kNeedsMoments>(params, first + i, label, 0, packs, lane, lanes);
      }
      sums = merge_lanes<kNeedsMoments>(sums, lanes, params.extra);
      mine = lane == i ? sums : mine;
    }
    if (here) {
      finish_row<T, kNeedsMoments>(params, first + lane, inputs, mine);
    }
  }
}

// Merge the sums of all threads of a block in the order of the warps. Thread 0 gets the result.
// `warps` has one element for each warp.
template <bool kNeedsMoments>
__device__ __forceinline__ RowSums merge_block(const RowSums& mine, const ExtraSums& extra,
                                               RowSums* warps) {
  const RowSums of_warp = merge_lanes<kNeedsMoments>(mine, 32, extra);
  if (threadIdx.x % 32 == 0) {
    warps[threadIdx.x / 32] = of_warp;
  }
  __syncthreads();
  RowSums sums = of_warp;
  if (threadIdx.x == 0) {
    for (unsigned warp = 1; warp < blockDim.x / 32; ++warp) {
      sums = merge<kNeedsMoments>(sums, warps[warp], extra);
    }
  }
  return sums;
}

// Score rows with one block for each slice of a row.
template <class T, bool kNeedsMoments>
__device__ __forceinline__ void score_by_slices(const KernelParams& params) {
  // Two buffers, so that one barrier a slice is enough: while thread 0 reads one buffer, the other
  // threads fill the second, and wait at the next barrier.
  __shared__ RowSums warps[2][kMaxThreads / 32];
  const int64_t slices = params.plan.slices;
  const int64_t packs = ceil_div(params.batch.classes, kPackSize<T>);
  int buffer = 0;
  for (int64_t tile = blockIdx.x; tile < params.batch.rows * slices; tile += gridDim.x) {
    const int64_t row = tile / slices;
    const int first = static_cast<int>(tile % slices * params.plan.slice_packs);
    const int last = static_cast<int>(min(packs, first + params.plan.slice_packs));
    const RowInputs<T> inputs = read_inputs<T>(params, row);
    RowSums sums = empty_sums();
    if (inputs.label >= 0) {
      sums =
          sum_packs<T, kNeedsMoments>(params, row, inputs.label, first, last,
                                      static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x));
    }
    sums = merge_block<kNeedsMoments>(sums, params.extra, warps[buffer]);
    buffer = 1 - buffer;
    if (threadIdx.x == 0) {
      if (slices == 1) {
        finish_row<T, kNeedsMoments>(params, row, inputs, sums);
      } else {
        params.partials[tile] = sums;
      }
    }
  }
}

// Read around the L1 cache, which does not see the writes of other blocks.
__device__ __forceinline__ RowSums read_partial(const RowSums* from) {
  return {__ldcg(&from->max), __ldcg(&from->sum), __ldcg(&from->moment), __ldcg(&from->total)};
}

// Merge the slices of each row in their order. The last block does it.
template <class T, bool kNeedsMoments>
__device__ __forceinline__ void merge_slices(const KernelParams& params) {
  for (int64_t row = threadIdx.x; row < params.batch.rows; row += blockDim.x) {
    const RowInputs<T> inputs = read_inputs<T>(params, row);
    const RowSums* partials = params.partials + row * params.plan.slices;
    RowSums sums = read_partial(partials);
#pragma unroll 4
    for (int64_t slice = 1; slice < params.plan.slices; ++slice) {
      sums = merge<kNeedsMoments>(sums, read_partial(partials + slice), params.extra);
    }
    finish_row<T, kNeedsMoments>(params, row, inputs, sums);
  }
}

}  // namespace rho_ext
