// Select the k largest keys and write them in descending order, by the last block or by all blocks.
// Keys with their rows are distinct, so the result does not depend on the order of the threads.
// Ties go to the lower row.
#pragma once

#include "common/key.h"
#include "cuda/threshold.cuh"

namespace rho_ext {

// Write the selected keys of [begin, end) with their rows, in any order. `taken` counts those that
// all warps of the group have written.
__device__ __forceinline__ void collect_winners(const KernelParams& params, uint32_t begin,
                                                uint32_t end, const Threshold& threshold,
                                                uint64_t* winners, uint32_t* taken) {
  const uint32_t k = static_cast<uint32_t>(params.outputs.k);
  for_each_keys(params.keys, begin, end, [&](const auto& bits, const auto& rows) {
    uint32_t wins = 0;
    uint32_t mine = 0;
#pragma unroll
    for (uint32_t i = 0; i < kKeysPerThread; ++i) {
      const bool win =
          rows[i] < end && with_row(bits[i], rows[i]) >> threshold.shift >= threshold.prefix;
      wins |= win ? 1u << i : 0;
      mine += win ? 1 : 0;
    }
    const uint32_t sum = sum_to_lane(mine);
    uint32_t at = 0;
    if (threadIdx.x % 32 == 31) {
      at = atomicAdd(taken, sum);
    }
    at = __shfl_sync(kAllLanes, at, 31) + sum - mine;
#pragma unroll
    for (uint32_t i = 0; i < kKeysPerThread; ++i) {
      // The test of `at` keeps in bounds if a workspace was not zero; then the result is wrong.
      if ((wins >> i & 1) != 0 && at < k) {
        winners[at] = key_of<float>(bits[i], rows[i]);
        ++at;
      }
    }
  });
}

// Return the larger or the smaller key of two.
__device__ __forceinline__ uint64_t one_of(uint64_t key, uint64_t other, bool larger) {
  return (other > key) == larger ? other : key;
}

// Sort a power of two of keys, descending (bitonic sort). Thread t holds those from t * kHeld on.
// `shared` has room for kHeld keys of each of kMaxThreads threads.
template <int kHeld>
__device__ __forceinline__ void sort_held(uint64_t (&keys)[kHeld], uint32_t count,
                                          uint64_t* shared) {
  const uint32_t first = threadIdx.x * kHeld;
  // Warps without keys of the tile only keep to the barriers.
  const bool idle = first - threadIdx.x % 32 * kHeld >= count;
  for (uint32_t size = 2; size <= count; size *= 2) {
    const bool descending = (first & size) == 0;
    uint32_t stride = size / 2;
    for (; stride >= 32 * kHeld; stride /= 2) {
      // The partner is in another warp.
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        shared[i * kMaxThreads + threadIdx.x] = keys[i];
      }
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        const uint64_t other = shared[i * kMaxThreads + (threadIdx.x ^ (stride / kHeld))];
        keys[i] = one_of(keys[i], other, ((first & stride) == 0) == descending);
      }
    }
    if (idle) {
      continue;
    }
    for (; stride >= kHeld; stride /= 2) {
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        const uint64_t other =
            __shfl_xor_sync(kAllLanes, keys[i], static_cast<int>(stride / kHeld));
        keys[i] = one_of(keys[i], other, ((first & stride) == 0) == descending);
      }
    }
#pragma unroll
    for (uint32_t near = kHeld / 2; near > 0; near /= 2) {
#pragma unroll
      for (uint32_t i = 0; i < kHeld; ++i) {
        if ((i & near) == 0 && near < size) {
          const uint64_t a = keys[i];
          const uint64_t b = keys[i + near];
          const bool swap = (a < b) == (((first + i) & size) == 0);
          keys[i] = swap ? b : a;
          keys[i + near] = swap ? a : b;
        }
      }
    }
  }
}

// Sort a tile of `count` keys: read(i) returns key i, and write(rank, key) gets all in descending
// order.
template <int kHeld, class Read, class Write>
__device__ __forceinline__ void sort_tile(uint32_t tile, uint32_t count, uint64_t* shared,
                                          const Read& read, const Write& write) {
  const uint32_t lane = threadIdx.x % 32;
  uint64_t keys[kHeld];
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const uint32_t at = (threadIdx.x - lane) * kHeld + lane + i * 32;
    keys[i] = at < count ? read(at) : kExcluded<float>;
  }
  sort_held(keys, kHeld == 1 ? tile : max(tile, 32u * kHeld), shared);
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const uint32_t rank = threadIdx.x * kHeld + i;
    if (rank < count) {
      write(rank, keys[i]);
    }
  }
}

__device__ __forceinline__ void write_winner(const KernelParams& params, uint32_t rank,
                                             uint64_t key) {
  const bool padding = key == kExcluded<float>;
  params.outputs.values[rank] = padding ? -INFINITY : key_score<float>(key);
  params.outputs.indices[rank] = padding ? -1 : key_row<float>(key);
}

// Sort each tile of the selected keys, a block at a time. A single one is the result; else `sorted`
// gets the runs.
__device__ __forceinline__ void sort_tiles(const BlockGroup& group, const KernelParams& params,
                                           bool in_shared, uint64_t* sorted) {
  uint64_t* shared = reinterpret_cast<uint64_t*>(dynamic_shared());
  const uint32_t k = static_cast<uint32_t>(params.outputs.k);
  const uint32_t tile = static_cast<uint32_t>(params.plan.sort_tile);
  for (uint32_t begin = group.rank() * tile; begin < k; begin += group.size() * tile) {
    const auto read = [&](uint32_t i) {
      return in_shared ? shared[i] : __ldcg(&params.winners[begin + i]);
    };
    const auto write = [&](uint32_t rank, uint64_t key) {
      if (k <= tile) {
        write_winner(params, rank, key);
      } else {
        sorted[begin + rank] = key;
      }
    };
    const uint32_t count = min(tile, k - begin);
    if (tile <= blockDim.x) {
      sort_tile<1>(tile, count, shared, read, write);
    } else {
      sort_tile<kHeldKeys>(tile, count, shared, read, write);
    }
  }
}

// Merge sorted runs of sort_tile keys, kMergedRuns at a time, until one is left: the result.
__device__ __forceinline__ void merge_runs(const BlockGroup& group, const KernelParams& params,
                                           uint64_t* from, uint64_t* to) {
  const uint32_t k = static_cast<uint32_t>(params.outputs.k);
  for (uint32_t run = static_cast<uint32_t>(params.plan.sort_tile);; run *= kMergedRuns) {
    const bool last = (k - 1) / kMergedRuns < run;
    for (uint32_t i = group.rank() * blockDim.x + threadIdx.x; i < k;
         i += group.size() * blockDim.x) {
      const uint32_t first = i & ~(run * kMergedRuns - 1);
      const uint64_t key = __ldcg(&from[i]);
      // Count in each run, also its own, the keys that come before: larger ones, and of equal ones
      // those at an earlier place. Only excluded keys are equal. All runs are searched at a time.
      uint32_t before[kMergedRuns] = {};
      for (uint32_t step = run; step > 0; step /= 2) {
#pragma unroll
        for (uint32_t r = 0; r < kMergedRuns; ++r) {
          const uint32_t at = first + r * run + before[r] + step - 1;
          if (before[r] + step <= run && at < k) {
            const uint64_t other = __ldcg(&from[at]);
            before[r] += other > key || (other == key && at < i) ? step : 0;
          }
        }
      }
      uint32_t rank = first;
#pragma unroll
      for (uint32_t r = 0; r < kMergedRuns; ++r) {
        rank += before[r];
      }
      if (last) {
        write_winner(params, rank, key);
      } else {
        to[rank] = key;
      }
    }
    if (last) {
      return;
    }
    group.sync();
    uint64_t* merged = to;
    to = from;
    from = merged;
  }
}

// Select the top k. All keys must be visible to the blocks of the group.
__device__ __forceinline__ void select_top(const BlockGroup& group, const KernelParams& params) {
  __shared__ uint32_t taken;
  const bool leads = group.rank() == 0 && threadIdx.x == 0;
  if (leads) {
    *params.outputs.invalid = static_cast<int32_t>(atomicExch(&params.state->invalid, 0u));
  }
  if (params.outputs.k == 0) {
    return;
  }
  if (threadIdx.x == 0) {
    taken = 0;
  }
  // An equal share of the rows for each block, in whole vectors.
  const uint64_t vectors = ceil_div(params.batch.rows, kKeysPerVector);
  const auto share = [&](uint64_t rank) {
    return static_cast<uint32_t>(min(vectors * rank / group.size() * kKeysPerVector,
                                     static_cast<uint64_t>(params.batch.rows)));
  };
  const uint32_t begin = share(group.rank());
  const uint32_t end = share(group.rank() + 1);
  const Threshold threshold = find_threshold(group, params, begin, end);
  // Shared memory held the histogram. It has been read: find_digit ends with a barrier.
  const bool in_shared = !group.grid && params.outputs.k <= params.plan.sort_tile;
  uint64_t* winners = in_shared ? reinterpret_cast<uint64_t*>(dynamic_shared()) : params.winners;
  collect_winners(params, begin, end, threshold, winners,
                  in_shared ? &taken : &params.state->winners);
  group.sync();
  if (leads) {
    params.state->winners = 0;
  }
  // All blocks have read the histograms: clear them.
  for (uint32_t i = threadIdx.x; group.rank() == 0 && group.grid && i < 3 * kDigits;
       i += blockDim.x) {
    params.state->histograms[i] = 0;
  }
  uint64_t* sorted = params.winners + params.plan.winner_stride;
  sort_tiles(group, params, in_shared, sorted);
  if (params.outputs.k > params.plan.sort_tile) {
    group.sync();
    merge_runs(group, params, sorted, params.winners);
  }
}

}  // namespace rho_ext
