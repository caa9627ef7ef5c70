// Several blocks: grid sync, polling, tickets, schedules, and refused launches.
#include <cooperative_groups.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "selftest/check.h"

namespace selftest {
namespace {

namespace cg = cooperative_groups;

// Every block sums the values that all blocks wrote in the previous round.
__global__ void sum_in_rounds(int* values, int* sums) {
  __shared__ int sum;
  const unsigned blocks = gridDim.x;
  for (int round = 0; round < 5; ++round) {
    if (threadIdx.x == 0) {
      values[blockIdx.x] = round + static_cast<int>(blockIdx.x);
    }
    cg::this_grid().sync();
    if (threadIdx.x == 1) {
      sum = 0;
      for (unsigned b = 0; b < blocks; ++b) {
        sum += values[b];
      }
    }
    __syncthreads();
    if (threadIdx.x == 2) {
      sums[blockIdx.x * 5 + round] = sum;
    }
    cg::this_grid().sync();
  }
}
__global__ void sync_grid() { cg::this_grid().sync(); }
__global__ void sync_grid_without_block_0() {
  if (blockIdx.x > 0) {
    cg::this_grid().sync();
  }
}

// Every block waits for the one before it.
__global__ void chain(unsigned* flags, int* values) {
  if (threadIdx.x == 0) {
    while (atomicAdd(&flags[blockIdx.x], 0u) == 0) {
    }
    __threadfence();
    values[blockIdx.x + 1] = values[blockIdx.x] + 1;
    __threadfence();
    atomicExch(&flags[blockIdx.x + 1], 1u);
  }
}
// The first block waits for the last.
__global__ void wait_for_last(unsigned* flag) {
  if (blockIdx.x == gridDim.x - 1) {
    atomicExch(flag, 1u);
  } else if (blockIdx.x == 0) {
    while (atomicAdd(flag, 0u) == 0) {
      __nanosleep(10);
    }
  }
}

// The last block to finish sums the values of all blocks.
template <bool kRelease, bool kAcquire>
__global__ void sum_by_last_block(unsigned* ticket, int* values, int* sum) {
  __shared__ bool last;
  const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
  values[at] = static_cast<int>(at);
  if constexpr (kRelease) {
    __threadfence();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicInc(ticket, gridDim.x - 1) == gridDim.x - 1;
    if constexpr (kAcquire) {
      __threadfence();
    }
  }
  __syncthreads();
  if (last && threadIdx.x == 0) {
    int total = 0;
    for (unsigned i = 0; i < gridDim.x * blockDim.x; ++i) {
      total += __ldcg(values + i);
    }
    *sum = total;
  }
}

// The same with fences of the thread that takes the ticket and of the readers.
__global__ void sum_by_last_block_with_few_fences(unsigned* ticket, int* values, int* sum) {
  __shared__ bool last;
  const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
  values[at] = static_cast<int>(at);
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicInc(ticket, gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (last && threadIdx.x == 7) {
    __threadfence();
    int total = 0;
    for (unsigned i = 0; i < gridDim.x * blockDim.x; ++i) {
      total += __ldcg(values + i);
    }
    *sum = total;
  }
}

void run_ticket(void (*kernel)(unsigned*, int*, int*)) {
  unsigned ticket = 0;
  for (int repeat = 0; repeat < 2; ++repeat) {
    std::vector<int> values(6 * 64);
    int sum = -1;
    CHECK(launch({.grid = 6, .block = 64}, kernel, &ticket, values.data(), &sum) == cudaSuccess);
    CHECK(sum == 384 * 383 / 2);
    CHECK(ticket == 0);
  }
}

__global__ void read_without_barrier(int* out) {
  __shared__ int values[64];
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  out[threadIdx.x] = values[(threadIdx.x + 32) % 64];
}

__global__ void record_order(unsigned* count, unsigned* order) {
  order[atomicAdd(count, 1u)] = blockIdx.x * blockDim.x + threadIdx.x;
}
std::vector<unsigned> order_of(const Schedule& schedule) {
  use(schedule);
  unsigned count = 0;
  std::vector<unsigned> order(6 * 64);
  CHECK(launch({.grid = 6, .block = 64}, record_order, &count, order.data()) == cudaSuccess);
  return order;
}

__global__ void nothing() {}
__global__ void trap() { __trap(); }

}  // namespace

TEST(grid_sync) {
  in_all_schedules([] {
    std::vector<int> values(4);
    std::vector<int> sums(4 * 5);
    const Shape shape{.grid = 4, .block = 64, .cooperative = true};
    CHECK(launch(shape, sum_in_rounds, values.data(), sums.data()) == cudaSuccess);
    for (int i = 0; i < 4 * 5; ++i) {
      CHECK(sums[i] == 6 + 4 * (i % 5));
    }
  });
}

TEST(polling) {
  in_all_schedules([] {
    std::vector<unsigned> flags(21);
    std::vector<int> values(21);
    flags[0] = 1;
    CHECK(launch({.grid = 20}, chain, flags.data(), values.data()) == cudaSuccess);
    CHECK(values[20] == 20);
    unsigned flag = 0;
    CHECK(launch({.grid = 4}, wait_for_last, &flag) == cudaSuccess);
  });
}

TEST(ticket) {
  in_all_schedules([] {
    run_ticket(sum_by_last_block<true, true>);
    run_ticket(sum_by_last_block_with_few_fences);
  });
}

TEST(schedules) {
  const std::vector<unsigned> forward = order_of({.order = 0});
  CHECK(std::is_sorted(forward.begin(), forward.end()));
  const std::vector<unsigned> reverse = order_of({.order = 1});
  CHECK(reverse[0] == 3 * 64 + 63 && reverse.back() == 0);
  const std::vector<unsigned> random = order_of({.seed = 1, .order = 2});
  CHECK(random == order_of({.seed = 1, .order = 2}));
  CHECK(random != order_of({.seed = 2, .order = 2}));
  CHECK(!std::is_sorted(random.begin(), random.end()));
  // Blocks interleave.
  const std::vector<unsigned> yielding = order_of({.seed = 1, .yield_permille = 300});
  CHECK(yielding == order_of({.seed = 1, .yield_permille = 300}));
  int switches = 0;
  for (size_t i = 1; i < yielding.size(); ++i) {
    switches += yielding[i] / 64 != yielding[i - 1] / 64;
  }
  CHECK(switches > 50);
}

TEST(runtime_api) {
  use({.resident = 3});
  int value = 0;
  CHECK(cudaGetDevice(&value) == cudaSuccess && value == 0);
  CHECK(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, 0) == cudaSuccess);
  CHECK(value == 3);
  CHECK(cudaDeviceGetAttribute(&value, cudaDevAttrCooperativeLaunch, 0) == cudaSuccess);
  CHECK(value == 1);
  CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&value, nothing, 256, 0) == cudaSuccess);
  CHECK(value == 1);
  cudaStreamCaptureStatus capture;
  CHECK(cudaStreamIsCapturing(nullptr, &capture) == cudaSuccess);
  CHECK(capture == cudaStreamCaptureStatusNone);
  auto mode = cudaStreamCaptureModeRelaxed;
  CHECK(cudaThreadExchangeStreamCaptureMode(&mode) == cudaSuccess);
  void* memory = nullptr;
  CHECK(cudaMalloc(&memory, 16) == cudaSuccess && memory != nullptr);
  std::free(memory);
  int word = 0;
  CHECK(cudaMemsetAsync(&word, 0xff, sizeof word, nullptr) == cudaSuccess && word == -1);
  // More than 48 KB would need an attribute of the kernel.
  CHECK(launch({.dynamic_shared = 49 << 10}, nothing) == cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaSuccess);
}

TEST(wrong_launches) {
  in_all_schedules([] {
    CHECK(launch({.block = 1025}, nothing) == cudaErrorInvalidConfiguration);
    CHECK(launch({.grid = 0}, nothing) == cudaErrorInvalidConfiguration);
    CHECK(launch({.grid = 5, .cooperative = true}, sync_grid) ==
          cudaErrorCooperativeLaunchTooLarge);
    CHECK(contains(failure({.grid = 2}, sync_grid), "without the cooperative attribute"));
    CHECK(contains(failure({.grid = 3, .cooperative = true}, sync_grid_without_block_0),
                   "others wait at a grid sync"));
    CHECK(contains(failure({.grid = 6}, trap), "__trap() was called [block ("));
    CHECK(launch({.grid = 4, .cooperative = true}, sync_grid) == cudaSuccess);
  });
  use({.resident = 1});
  unsigned flag = 0;
  CHECK(contains(failure({.grid = 2}, wait_for_last, &flag), "livelock"));
}

TEST(mistake_race) {
  std::vector<int> out(64);
  launch({.block = 64}, read_without_barrier, out.data());
}

TEST(mistake_release_fence) { run_ticket(sum_by_last_block<false, true>); }

TEST(mistake_acquire_fence) { run_ticket(sum_by_last_block<true, false>); }

}  // namespace selftest
