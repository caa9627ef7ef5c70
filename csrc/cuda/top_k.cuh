// Select the k largest keys and write them in descending order, by the last block or by all blocks.
// Keys with their rows are distinct, so the result does not depend on the order of the threads.
// Ties go to the lower row.
#pragma once

#include "common/key.h"
#include "cuda/threshold.cuh"

namespace rho_ext {

// Count the keys in [begin, end) above the threshold and at the threshold.
__device__ __forceinline__ void count_winners(const uint32_t* keys, uint32_t begin, uint32_t end,
                                              const Threshold& threshold, uint32_t& above,
                                              uint32_t& equal) {
  uint32_t mine_above = 0;
  uint32_t mine_equal = 0;
  for_each_key(keys, begin, end, [&](uint32_t key, bool inside) {
    const uint32_t digits = key >> threshold.shift;
    mine_above += inside && digits > threshold.prefix;
    mine_equal += inside && digits == threshold.prefix;
  });
  sum_before(mine_above, above);
  sum_before(mine_equal, equal);
}

// Sum the counts of the earlier blocks of the group.
__device__ __forceinline__ void count_earlier(const BlockGroup& group, const uint32_t* counts,
                                              uint32_t& above, uint32_t& equal) {
  uint32_t mine_above = 0;
  uint32_t mine_equal = 0;
  for (uint32_t block = threadIdx.x; block < group.rank; block += blockDim.x) {
    mine_above += __ldcg(&counts[2 * block]);
    mine_equal += __ldcg(&counts[2 * block + 1]);
  }
  sum_before(mine_above, above);
  sum_before(mine_equal, equal);
}

// Write the selected keys of [begin, end) with their rows, in the order of their rows. `above` and
// `equal` are the counts of all earlier rows.
__device__ __forceinline__ void collect_winners(const KernelParams& params, uint32_t begin,
                                                uint32_t end, const Threshold& threshold,
                                                uint32_t above, uint32_t equal, uint64_t* winners) {
  const uint32_t first_tie = static_cast<uint32_t>(params.outputs.k) - threshold.ties;
  // All threads stay in the loop, because sum_before has barriers.
  for (uint32_t base = begin; base < end; base += blockDim.x * kKeysPerThread) {
    const uint32_t row = base + threadIdx.x * kKeysPerThread;
    uint32_t key[kKeysPerThread];
    read_keys(params.keys, row, end, key);
    bool wins[kKeysPerThread];
    bool ties[kKeysPerThread];
    uint32_t mine = 0;
#pragma unroll
    for (uint32_t i = 0; i < kKeysPerThread; ++i) {
      const uint32_t digits = key[i] >> threshold.shift;
      wins[i] = row + i < end && digits > threshold.prefix;
      ties[i] = row + i < end && digits == threshold.prefix;
      // Both counts in one sum: one iteration has at most 2048 keys.
      mine += (wins[i] ? 1u : 0u) + (ties[i] ? 1u << 16 : 0u);
    }
    uint32_t total = 0;
    const uint32_t before = sum_before(mine, total);
    uint32_t win = above + before % 65536;
    uint32_t tie = equal + before / 65536;
#pragma unroll
    for (uint32_t i = 0; i < kKeysPerThread; ++i) {
      // The tests stay in bounds if a workspace was not zero; then the result is wrong.
      if (wins[i] && win < first_tie) {
        winners[win] = key_of<float>(key[i], row + i);
      }
      win += wins[i] ? 1u : 0u;
      if (ties[i] && tie < threshold.ties) {
        winners[first_tie + tie] = key_of<float>(key[i], row + i);
      }
      tie += ties[i] ? 1u : 0u;
    }
    above += total % 65536;
    equal += total / 65536;
  }
}

// Sort a power of two of keys in shared memory, descending (bitonic sort).
__device__ __forceinline__ void sort_shared(uint64_t* keys, uint32_t count) {
  __syncthreads();
  for (uint32_t size = 2; size <= count; size *= 2) {
    for (uint32_t stride = size / 2; stride > 0; stride /= 2) {
      for (uint32_t pair = threadIdx.x; pair < count / 2; pair += blockDim.x) {
        const uint32_t low = 2 * pair - pair % stride;
        const uint64_t a = keys[low];
        const uint64_t b = keys[low + stride];
        if ((a < b) == ((low & size) == 0)) {
          keys[low] = b;
          keys[low + stride] = a;
        }
      }
      // With a stride of at most 32 each warp reads and writes 64 keys of its own.
      if (stride > 32 || (stride == 1 && size >= 64)) {
        __syncthreads();
      } else {
        __syncwarp();
      }
    }
  }
  __syncthreads();
}

__device__ __forceinline__ void write_winner(const KernelParams& params, int64_t rank,
                                             uint64_t key) {
  const bool padding = key == kExcluded<float>;
  params.outputs.values[rank] = padding ? -INFINITY : key_score<float>(key);
  params.outputs.indices[rank] = padding ? -1 : key_row<float>(key);
}

// Sort each tile of the selected keys in place.
__device__ __forceinline__ void sort_tiles(const BlockGroup& group, const KernelParams& params,
                                           uint64_t* winners) {
  uint64_t* shared = reinterpret_cast<uint64_t*>(dynamic_shared());
  const uint32_t k = static_cast<uint32_t>(params.outputs.k);
  const uint32_t tile = static_cast<uint32_t>(params.plan.sort_tile);
  for (uint32_t begin = group.rank * tile; begin < k; begin += group.size * tile) {
    const uint32_t count = min(tile, k - begin);
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < tile; i += blockDim.x) {
      shared[i] = i < count ? __ldcg(&winners[begin + i]) : kExcluded<float>;
    }
    sort_shared(shared, tile);
    for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) {
      winners[begin + i] = shared[i];
    }
  }
}

// Count the keys of a descending run that come before `key`: larger ones, and equal ones if the run
// is earlier. Only excluded keys can be equal.
__device__ __forceinline__ uint32_t keys_before(const uint64_t* run, uint32_t count, uint64_t key,
                                                bool earlier) {
  uint32_t low = 0;
  uint32_t high = count;
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    const uint64_t other = __ldcg(&run[middle]);
    if (other > key || (earlier && other == key)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// Merge pairs of sorted runs until one is left. Return its address.
__device__ __forceinline__ const uint64_t* merge_runs(const BlockGroup& group,
                                                      const KernelParams& params, uint64_t* winners,
                                                      uint64_t* other) {
  const uint32_t k = static_cast<uint32_t>(params.outputs.k);
  for (uint64_t run = static_cast<uint64_t>(params.plan.sort_tile); run < k; run *= 2) {
    for (uint64_t i = group.rank * blockDim.x + threadIdx.x; i < k;
         i += uint64_t{group.size} * blockDim.x) {
      const uint64_t mine = i / run;
      const uint64_t sibling = min((mine ^ 1) * run, uint64_t{k});
      const uint32_t count = static_cast<uint32_t>(min(run, k - sibling));
      const uint64_t key = __ldcg(&winners[i]);
      const uint32_t before = keys_before(winners + sibling, count, key, mine % 2 == 1);
      other[(mine & ~uint64_t{1}) * run + i % run + before] = key;
    }
    group.sync();
    uint64_t* merged = other;
    other = winners;
    winners = merged;
  }
  return winners;
}

// Select the top k. All keys must be visible to the blocks of the group.
__device__ __forceinline__ void select_top(const BlockGroup& group, const KernelParams& params) {
  if (group.rank == 0 && threadIdx.x == 0) {
    *params.outputs.invalid = static_cast<int32_t>(atomicExch(&params.state->invalid, 0u));
  }
  const uint32_t k = static_cast<uint32_t>(params.outputs.k);
  if (k == 0) {
    return;
  }
  // An equal share of the rows for each block, in multiples of kKeysPerThread.
  const uint64_t quads = ceil_div(params.batch.rows, kKeysPerThread);
  const auto share = [&](uint64_t rank) {
    return static_cast<uint32_t>(
        min(quads * rank / group.size * kKeysPerThread, static_cast<uint64_t>(params.batch.rows)));
  };
  const uint32_t begin = share(group.rank);
  const uint32_t end = share(group.rank + 1);
  const Threshold threshold = find_threshold(group, params, begin, end);
  uint32_t above = 0;
  uint32_t equal = 0;
  if (group.size > 1) {
    count_winners(params.keys, begin, end, threshold, above, equal);
    if (threadIdx.x == 0) {
      params.counts[2 * group.rank] = above;
      params.counts[2 * group.rank + 1] = equal;
    }
    group.sync();
    count_earlier(group, params.counts, above, equal);
    // All blocks have read the histograms: clear them.
    for (uint32_t i = threadIdx.x; group.rank == 0 && i < 3 * kDigits; i += blockDim.x) {
      params.state->histograms[i] = 0;
    }
  }
  uint64_t* shared = reinterpret_cast<uint64_t*>(dynamic_shared());
  const uint32_t tile = static_cast<uint32_t>(params.plan.sort_tile);
  if (group.size == 1 && k <= tile) {
    // Shared memory held the histogram. It has been read: find_digit ends with a barrier.
    for (uint32_t i = k + threadIdx.x; i < tile; i += blockDim.x) {
      shared[i] = kExcluded<float>;
    }
    collect_winners(params, begin, end, threshold, above, equal, shared);
    sort_shared(shared, tile);
    for (uint32_t i = threadIdx.x; i < k; i += blockDim.x) {
      write_winner(params, i, shared[i]);
    }
    return;
  }
  collect_winners(params, begin, end, threshold, above, equal, params.winners);
  group.sync();
  sort_tiles(group, params, params.winners);
  group.sync();
  const uint64_t* sorted =
      merge_runs(group, params, params.winners, params.winners + params.plan.winner_stride);
  for (uint64_t i = group.rank * blockDim.x + threadIdx.x; i < k;
       i += uint64_t{group.size} * blockDim.x) {
    write_winner(params, static_cast<int64_t>(i), __ldcg(&sorted[i]));
  }
}

}  // namespace rho_ext
