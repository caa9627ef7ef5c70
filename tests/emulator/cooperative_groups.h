// Replaces the toolkit's <cooperative_groups.h>: the grid and the block.
#pragma once

#include "cuda_runtime.h"

namespace cooperative_groups {

class thread_block {
 public:
  void sync(emulator::Where where = emulator::Where::current()) const {
    emulator::block_barrier(where);
  }
  unsigned thread_rank() const {
    return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  }
  unsigned num_threads() const { return blockDim.x * blockDim.y * blockDim.z; }
  unsigned size() const { return num_threads(); }
};

class grid_group {
 public:
  void sync(emulator::Where where = emulator::Where::current()) const {
    emulator::grid_barrier(where);
  }
  unsigned long long block_rank() const {
    return blockIdx.x + static_cast<unsigned long long>(gridDim.x) *
                            (blockIdx.y + static_cast<unsigned long long>(gridDim.y) * blockIdx.z);
  }
  unsigned long long num_blocks() const {
    return static_cast<unsigned long long>(gridDim.x) * gridDim.y * gridDim.z;
  }
  unsigned long long thread_rank() const {
    const thread_block block;
    return block_rank() * block.num_threads() + block.thread_rank();
  }
  unsigned long long num_threads() const { return num_blocks() * thread_block().num_threads(); }
  unsigned long long size() const { return num_threads(); }
};

inline thread_block this_thread_block() { return {}; }
inline grid_group this_grid() { return {}; }

}  // namespace cooperative_groups
