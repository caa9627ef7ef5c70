// Collective operations of a block, or of all blocks of a launch.
#pragma once

#include <cooperative_groups.h>

#include "cuda/plan.h"

namespace rho_ext {

// The blocks that select: the last one alone, or all blocks of a cooperative launch.
struct BlockGroup {
  bool grid;

  __device__ uint32_t rank() const { return grid ? blockIdx.x : 0; }
  __device__ uint32_t size() const { return grid ? gridDim.x : 1; }

  // Barrier: earlier writes are visible to the whole group.
  __device__ void sync() const {
    if (grid) {
      cooperative_groups::this_grid().sync();
    } else {
      __syncthreads();
    }
  }
};

// True in the block that finishes last. It sees the writes of all other blocks. No block waits.
__device__ __forceinline__ bool is_last_block(uint32_t* ticket) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    // Wraps to 0 with the last block, ready for the next launch.
    last = atomicInc(ticket, gridDim.x - 1) == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  return last;
}

// Return the sum of the values of the earlier lanes of the warp and of the caller.
__device__ __forceinline__ uint32_t sum_to_lane(uint32_t value) {
#pragma unroll
  for (unsigned distance = 1; distance < 32; distance *= 2) {
    const uint32_t before = __shfl_up_sync(kAllLanes, value, distance);
    value += threadIdx.x % 32 >= distance ? before : 0;
  }
  return value;
}

// Return the sum of the values of all earlier threads. Callers have a barrier between two calls.
__device__ __forceinline__ uint32_t sum_before(uint32_t value) {
  __shared__ uint32_t warps[kMaxThreads / 32];
  const uint32_t inclusive = sum_to_lane(value);
  if (threadIdx.x % 32 == 31) {
    warps[threadIdx.x / 32] = inclusive;
  }
  __syncthreads();
  uint32_t before = 0;
  for (unsigned warp = 0; warp < threadIdx.x / 32; ++warp) {
    before += warps[warp];
  }
  return before + inclusive - value;
}

}  // namespace rho_ext
