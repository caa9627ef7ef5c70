// Selects the k largest keys, by the last block alone or by all blocks together, and writes them in
// descending order. Keys with their rows are distinct, so there is one right answer whoever counts
// first: ties go to the lower row, and the result is the same to the bit.
#pragma once

#include "common/key.h"
#include "cuda/threshold.cuh"

namespace rho_ext {

// How many keys of [begin, end) win outright, and how many tie.
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

// The sum of what the earlier blocks of the team have counted, for winners and ties.
__device__ __forceinline__ void count_earlier(const Team& team, const uint32_t* counts,
                                              uint32_t& above, uint32_t& equal) {
  uint32_t mine_above = 0;
  uint32_t mine_equal = 0;
  for (uint32_t block = threadIdx.x; block < team.rank; block += blockDim.x) {
    mine_above += __ldcg(&counts[2 * block]);
    mine_equal += __ldcg(&counts[2 * block + 1]);
  }
  sum_before(mine_above, above);
  sum_before(mine_equal, equal);
}

// Writes the winners of [begin, end), with their rows, in the order of their rows. `above` and
// `equal` are those of all rows before.
__device__ __forceinline__ void collect_winners(const Arguments& in, uint32_t begin, uint32_t end,
                                                const Threshold& threshold, uint32_t above,
                                                uint32_t equal, uint64_t* winners) {
  const uint32_t first_tie = static_cast<uint32_t>(in.outputs.k) - threshold.ties;
  // All threads go round together.
  for (uint32_t base = begin; base < end; base += blockDim.x * kKeysPerThread) {
    const uint32_t row = base + threadIdx.x * kKeysPerThread;
    uint32_t key[kKeysPerThread];
    read_keys(in.keys, row, end, key);
    bool wins[kKeysPerThread];
    bool ties[kKeysPerThread];
    uint32_t mine = 0;
#pragma unroll
    for (uint32_t i = 0; i < kKeysPerThread; ++i) {
      const uint32_t digits = key[i] >> threshold.shift;
      wins[i] = row + i < end && digits > threshold.prefix;
      ties[i] = row + i < end && digits == threshold.prefix;
      // Both counts in one sum: a round has at most 2048 keys.
      mine += (wins[i] ? 1u : 0u) + (ties[i] ? 1u << 16 : 0u);
    }
    uint32_t total = 0;
    const uint32_t before = sum_before(mine, total);
    uint32_t win = above + before % 65536;
    uint32_t tie = equal + before / 65536;
#pragma unroll
    for (uint32_t i = 0; i < kKeysPerThread; ++i) {
      // They all fit, unless a workspace was not zero: then they are wrong, and stay in bounds.
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

// Bitonic sort of a power of two of keys in shared memory, descending.
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
      // Up to a stride of 32 a warp keeps to 64 keys of its own, before and after.
      if (stride > 32 || (stride == 1 && size >= 64)) {
        __syncthreads();
      } else {
        __syncwarp();
      }
    }
  }
  __syncthreads();
}

__device__ __forceinline__ void write_winner(const Arguments& in, int64_t rank, uint64_t key) {
  const bool padding = key == kExcluded<float>;
  in.outputs.values[rank] = padding ? -INFINITY : key_score<float>(key);
  in.outputs.indices[rank] = padding ? -1 : key_row<float>(key);
}

// Sorts each tile of the winners in its place.
__device__ __forceinline__ void sort_tiles(const Team& team, const Arguments& in,
                                           uint64_t* winners) {
  uint64_t* shared = reinterpret_cast<uint64_t*>(dynamic_shared());
  const uint32_t k = static_cast<uint32_t>(in.outputs.k);
  const uint32_t tile = static_cast<uint32_t>(in.plan.sort_tile);
  for (uint32_t begin = team.rank * tile; begin < k; begin += team.size * tile) {
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

// How many keys of a descending run come before this one: they are larger, or they are as large,
// which only excluded keys can be, and stand in an earlier run.
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

// Merges sorted runs, two by two, until there is one. Returns where it lies.
__device__ __forceinline__ const uint64_t* merge_runs(const Team& team, const Arguments& in,
                                                      uint64_t* winners, uint64_t* other) {
  const uint32_t k = static_cast<uint32_t>(in.outputs.k);
  for (uint64_t run = static_cast<uint64_t>(in.plan.sort_tile); run < k; run *= 2) {
    for (uint64_t i = team.rank * blockDim.x + threadIdx.x; i < k;
         i += uint64_t{team.size} * blockDim.x) {
      const uint64_t mine = i / run;
      const uint64_t sibling = min((mine ^ 1) * run, uint64_t{k});
      const uint32_t count = static_cast<uint32_t>(min(run, k - sibling));
      const uint64_t key = __ldcg(&winners[i]);
      const uint32_t before = keys_before(winners + sibling, count, key, mine % 2 == 1);
      other[(mine & ~uint64_t{1}) * run + i % run + before] = key;
    }
    team.sync();
    uint64_t* merged = other;
    other = winners;
    winners = merged;
  }
  return winners;
}

// The blocks of the team have all keys before them when they come here.
__device__ __forceinline__ void select_top(const Team& team, const Arguments& in) {
  if (team.rank == 0 && threadIdx.x == 0) {
    *in.outputs.invalid = static_cast<int32_t>(atomicExch(&in.state->invalid, 0u));
  }
  const uint32_t k = static_cast<uint32_t>(in.outputs.k);
  if (k == 0) {
    return;
  }
  // An equal share of the rows, in whole groups.
  const uint64_t groups = ceil_div(in.batch.rows, kKeysPerThread);
  const auto share = [&](uint64_t rank) {
    return static_cast<uint32_t>(
        min(groups * rank / team.size * kKeysPerThread, static_cast<uint64_t>(in.batch.rows)));
  };
  const uint32_t begin = share(team.rank);
  const uint32_t end = share(team.rank + 1);
  const Threshold threshold = find_threshold(team, in, begin, end);
  uint32_t above = 0;
  uint32_t equal = 0;
  if (team.size > 1) {
    count_winners(in.keys, begin, end, threshold, above, equal);
    if (threadIdx.x == 0) {
      in.counts[2 * team.rank] = above;
      in.counts[2 * team.rank + 1] = equal;
    }
    team.sync();
    count_earlier(team, in.counts, above, equal);
    // All blocks have read the histograms.
    for (uint32_t i = threadIdx.x; team.rank == 0 && i < 3 * kDigits; i += blockDim.x) {
      in.state->histograms[i] = 0;
    }
  }
  uint64_t* shared = reinterpret_cast<uint64_t*>(dynamic_shared());
  const uint32_t tile = static_cast<uint32_t>(in.plan.sort_tile);
  if (team.size == 1 && k <= tile) {
    // The histogram that lay here has been read: find_digit ends with a barrier.
    for (uint32_t i = k + threadIdx.x; i < tile; i += blockDim.x) {
      shared[i] = kExcluded<float>;
    }
    collect_winners(in, begin, end, threshold, above, equal, shared);
    sort_shared(shared, tile);
    for (uint32_t i = threadIdx.x; i < k; i += blockDim.x) {
      write_winner(in, i, shared[i]);
    }
    return;
  }
  collect_winners(in, begin, end, threshold, above, equal, in.winners);
  team.sync();
  sort_tiles(team, in, in.winners);
  team.sync();
  const uint64_t* sorted = merge_runs(team, in, in.winners, in.winners + in.plan.winner_stride);
  for (uint64_t i = team.rank * blockDim.x + threadIdx.x; i < k;
       i += uint64_t{team.size} * blockDim.x) {
    write_winner(in, static_cast<int64_t>(i), __ldcg(&sorted[i]));
  }
}

}  // namespace rho_ext
