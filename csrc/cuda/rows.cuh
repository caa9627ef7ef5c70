// Scores every row: its label, its irreducible loss, the sums of its logits, its loss and score.
#pragma once

#include <type_traits>

#include "common/key.h"
#include "cuda/arguments.cuh"

namespace rho_ext {

enum class RowKind : int32_t { kUsual, kIgnored, kInvalid };

// What belongs to a row beside its logits. Read before them, so that the way through three arrays
// hides behind the stream of logits.
struct RowInputs {
  RowKind kind = RowKind::kUsual;
  int32_t label = 0;
  float label_logit = 0.0f;
  float il = 0.0f;
  float bias = 0.0f;
};

template <class T>
__device__ __forceinline__ RowInputs read_inputs(const Arguments& in, int64_t row) {
  const Batch& batch = in.batch;
  RowInputs inputs;
  const int64_t label = read(batch.labels, row);
  if (batch.bias.data != nullptr) {
    inputs.bias = read(batch.bias, row);
  }
  if (label == batch.ignore_index) {
    inputs.kind = RowKind::kIgnored;
    return inputs;
  }
  bool valid = label >= 0 && label < batch.classes;
  // Not by the pointer: a table without a point has none either.
  if (uses_il(batch.method)) {
    const int64_t id = batch.ids.data != nullptr ? read(batch.ids, row) : row;
    valid = valid && id >= 0 && id < batch.points;
    if (valid) {
      inputs.il = read(batch.il, id);
    }
  }
  inputs.kind = valid ? RowKind::kUsual : RowKind::kInvalid;
  if (valid) {
    inputs.label = static_cast<int32_t>(label);
    inputs.label_logit = widen(row_start<T>(in, row)[label]);
  }
  return inputs;
}

// The loss and the score of a usual row, from its sums.
template <bool kFull>
__device__ __forceinline__ void score_usual_row(const Arguments& in, const RowInputs& inputs,
                                                const RowSums& sums, float& loss, float& score) {
  const Batch& batch = in.batch;
  // The further methods combine sums of very different sizes; they are worth a few doubles a row.
  using Real = std::conditional_t<kFull, double, float>;
  RowStats<Real> stats{};
  stats.max = sums.max;
  stats.sum = sums.sum;
  stats.log_sum = std::log(static_cast<Real>(sums.sum));
  stats.label = inputs.label_logit;
  if constexpr (kFull) {
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

// Called by one thread for each row.
template <bool kFull>
__device__ __forceinline__ void finish_row(const Arguments& in, int64_t row,
                                           const RowInputs& inputs, const RowSums& sums) {
  float loss = 0.0f;
  float score = -INFINITY;
  if (inputs.kind == RowKind::kInvalid) {
    loss = NAN;
    score = NAN;
  } else if (inputs.kind == RowKind::kUsual) {
    score_usual_row<kFull>(in, inputs, sums, loss, score);
  }
  in.outputs.losses[row] = loss;
  if (in.plan.tail == Tail::kNone) {
    in.outputs.scores[row] = score;
    return;
  }
  in.keys[row] = ordered_bits(score);
  if (score != score) {
    atomicAdd(&in.state->invalid, 1u);
  }
}

// Loads the groups of a lane, all before the first is used, with -inf from `whole` on.
template <class T, class Load>
__device__ __forceinline__ void load_groups(uint4 (&bits)[kUnroll], const T* logits, int start,
                                            int lane, int lanes, int whole, const Load& load) {
  const T* first = logits + static_cast<int64_t>(start + lane) * kGroup<T>;
  const int64_t step = static_cast<int64_t>(lanes) * kGroup<T>;
  // The same answer for all lanes, so that a warp goes one way: long rows fill nothing.
  if (start + kUnroll * lanes <= whole) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      bits[u] = load(first + u * step);
    }
    return;
  }
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    bits[u] = nothing<T>();
    if (start + lane + u * lanes < whole) {
      bits[u] = load(first + u * step);
    }
  }
}

// The sums of the groups [first, last) of a row that one of some lanes takes: neighbouring groups
// go to neighbouring lanes.
template <class T, bool kFull>
__device__ __forceinline__ RowSums sum_groups(const Arguments& in, int64_t row, int label,
                                              int first, int last, int lane, int lanes) {
  constexpr int kCount = kGroup<T>;
  constexpr int kGroupsPerChunk = kChunk / kCount;
  const T* logits = row_start<T>(in, row);
  const int classes = static_cast<int>(in.batch.classes);
  const int alignment = alignment_of(logits);
  const int whole = min(last, classes / kCount);
  RowSums sums = no_sums();
  for (int start = first; start < last; start += kUnroll * lanes) {
    const int base = start + lane;
    uint4 bits[kUnroll];
    if (alignment == kGroupBytes) {
      load_groups(bits, logits, start, lane, lanes, whole,
                  [](const T* from) { return load_once(from); });
    } else {
      load_groups(bits, logits, start, lane, lanes, whole,
                  [alignment](const T* from) { return load_unaligned(from, alignment); });
    }
    if (whole < last) {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (base + u * lanes == whole) {
          bits[u] = load_end(logits, whole * kCount, classes);
        }
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; u += kGroupsPerChunk) {
      float x[kChunk];
#pragma unroll
      for (int i = 0; i < kGroupsPerChunk; ++i) {
        widen_group<T>(bits[u + i], x + i * kCount);
      }
      const auto place = [&](int i) {
        return (base + (u + i / kCount) * lanes) * kCount + i % kCount;
      };
      if constexpr (kFull) {
        add_to_total(sums, x, in.full, min(classes, last * kCount), place);
        leave_out(x, in.full, label, place);
      }
      add_chunk<kFull>(sums, x, in.full);
    }
  }
  return sums;
}

// Teams of lanes, each with a row.
template <class T, bool kFull>
__device__ __forceinline__ void score_by_teams(const Arguments& in) {
  const int lanes = in.plan.lanes;
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  const int64_t rows_per_block = static_cast<int>(blockDim.x) / lanes;
  const int groups = static_cast<int>(in.plan.slice_groups);
  // All lanes of a warp go round together, also where there is no row left for some.
  for (int64_t base = blockIdx.x * rows_per_block; base < in.batch.rows;
       base += gridDim.x * rows_per_block) {
    const int64_t row = base + static_cast<int>(threadIdx.x) / lanes;
    const bool here = row < in.batch.rows;
    RowInputs inputs;
    RowSums sums = no_sums();
    if (here) {
      inputs = read_inputs<T>(in, row);
      if (inputs.kind == RowKind::kUsual) {
        sums = sum_groups<T, kFull>(in, row, inputs.label, 0, groups, lane, lanes);
      }
    }
    sums = merge_lanes<kFull>(sums, lanes, in.full);
    if (here && lane == 0) {
      finish_row<kFull>(in, row, inputs, sums);
    }
  }
}

// The sums of all threads of a block, in the order of the warps; thread 0 gets them. `warps` has a
// place for each warp.
template <bool kFull>
__device__ __forceinline__ RowSums merge_block(const RowSums& mine, const FullSums& full,
                                               RowSums* warps) {
  const RowSums of_warp = merge_lanes<kFull>(mine, 32, full);
  if (threadIdx.x % 32 == 0) {
    warps[threadIdx.x / 32] = of_warp;
  }
  __syncthreads();
  RowSums sums = of_warp;
  if (threadIdx.x == 0) {
    for (unsigned warp = 1; warp < blockDim.x / 32; ++warp) {
      sums = merge<kFull>(sums, warps[warp], full);
    }
  }
  return sums;
}

// A block for each slice of a row.
template <class T, bool kFull>
__device__ __forceinline__ void score_by_slices(const Arguments& in) {
  // Two, so that one barrier a slice is enough: while thread 0 reads one, the others may fill the
  // other, and the barrier after that lets nobody further.
  __shared__ RowSums warps[2][kMaxThreads / 32];
  const int64_t slices = in.plan.slices;
  const int64_t groups = ceil_div(in.batch.classes, kGroup<T>);
  int turn = 0;
  for (int64_t tile = blockIdx.x; tile < in.batch.rows * slices; tile += gridDim.x) {
    const int64_t row = tile / slices;
    const int first = static_cast<int>(tile % slices * in.plan.slice_groups);
    const int last = static_cast<int>(min(groups, first + in.plan.slice_groups));
    const RowInputs inputs = read_inputs<T>(in, row);
    RowSums sums = no_sums();
    if (inputs.kind == RowKind::kUsual) {
      sums = sum_groups<T, kFull>(in, row, inputs.label, first, last, static_cast<int>(threadIdx.x),
                                  static_cast<int>(blockDim.x));
    }
    sums = merge_block<kFull>(sums, in.full, warps[turn]);
    turn = 1 - turn;
    if (threadIdx.x == 0) {
      if (slices == 1) {
        finish_row<kFull>(in, row, inputs, sums);
      } else {
        in.partials[tile] = sums;
      }
    }
  }
}

// Past the L1 cache, which does not see what other blocks write.
__device__ __forceinline__ RowSums read_partial(const RowSums* from) {
  return {__ldcg(&from->max), __ldcg(&from->sum), __ldcg(&from->moment), __ldcg(&from->total)};
}

// The last block merges the slices of each row, in their order.
template <class T, bool kFull>
__device__ __forceinline__ void merge_slices(const Arguments& in) {
  for (int64_t row = threadIdx.x; row < in.batch.rows; row += blockDim.x) {
    const RowInputs inputs = read_inputs<T>(in, row);
    const RowSums* partials = in.partials + row * in.plan.slices;
    RowSums sums = read_partial(partials);
    for (int64_t slice = 1; slice < in.plan.slices; ++slice) {
      sums = merge<kFull>(sums, read_partial(partials + slice), in.full);
    }
    finish_row<kFull>(in, row, inputs, sums);
  }
}

}  // namespace rho_ext
