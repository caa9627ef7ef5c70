// Correct and wrong uses of warp collectives and barriers.
#include <vector>

#include "selftest/check.h"

namespace selftest {
namespace {

constexpr unsigned kAll = 0xffffffffu;

struct Shuffled {
  int flipped, up, third;
};
// In a last warp of fewer than 32 threads the missing lanes are not in the mask.
__device__ unsigned mask_of_warp() {
  const unsigned left = blockDim.x - (threadIdx.x & ~31u);
  return left >= 32 ? kAll : (1u << left) - 1;
}
__global__ void shuffle_all(Shuffled* out) {
  const int value = static_cast<int>(threadIdx.x);
  const unsigned mask = mask_of_warp();
  Shuffled& mine = out[threadIdx.x];
  mine.flipped = __shfl_xor_sync(mask, value, 1);
  mine.up = __shfl_up_sync(mask, value, 1);
  mine.third = __shfl_sync(mask, value, 2, 8);
}
__global__ void shuffle_halves_at_different_rates(double* out) {
  const bool low = threadIdx.x < 16;
  double value = threadIdx.x;
  for (int i = 0; i < (low ? 3 : 9); ++i) {
    value = __shfl_xor_sync(low ? 0xffffu : 0xffff0000u, value, 1) + 1;
  }
  out[threadIdx.x] = value;
}

__global__ void shuffle_without_the_exited(int* out) {
  if (threadIdx.x < 20) {
    const unsigned up = __shfl_up_sync(kAll, threadIdx.x, 1);
    __syncthreads();
    out[threadIdx.x] = static_cast<int>(up);
  }
}

__global__ void rotate(int* out) {
  __shared__ int values[128];
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  for (int i = 0; i < 10; ++i) {
    __syncthreads();
    const int next = values[(threadIdx.x + 1) % blockDim.x];
    __syncthreads();
    values[threadIdx.x] = next;
  }
  out[blockIdx.x * blockDim.x + threadIdx.x] = values[threadIdx.x];
}

__global__ void at_different_barriers() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
__global__ void at_a_barrier_and_a_warp_function() {
  if (threadIdx.x == 0) {
    __syncwarp();
  } else {
    __syncthreads();
  }
}
__global__ void reads_outside_the_mask() {
  if (threadIdx.x < 16) {
    __shfl_xor_sync(0xffffu, 1, 16);
  }
}
__global__ void reads_an_exited_lane() {
  if (threadIdx.x != 5) {
    __shfl_xor_sync(kAll, 1, 1);
  }
}
__global__ void leaves_itself_out() { __syncwarp(0xfffffffeu); }
__global__ void at_different_warp_functions() {
  if (threadIdx.x & 1) {
    __shfl_xor_sync(kAll, 1, 2);
  } else {
    __syncwarp();
  }
}

}  // namespace

TEST(shuffles) {
  in_all_schedules([] {
    for (int threads : {32, 64, 40}) {
      std::vector<Shuffled> out(threads);
      CHECK(launch({.block = threads}, shuffle_all, out.data()) == cudaSuccess);
      for (int t = 0; t < threads; ++t) {
        CHECK(out[t].flipped == (t ^ 1));
        CHECK(out[t].up == (t % 32 > 0 ? t - 1 : t));
        CHECK(out[t].third == t / 8 * 8 + 2);
      }
    }
    std::vector<double> out(32);
    CHECK(launch({}, shuffle_halves_at_different_rates, out.data()) == cudaSuccess);
    CHECK(out[0] == 1 + 3 && out[16] == 17 + 9);
    std::vector<int> before(20);
    CHECK(launch({}, shuffle_without_the_exited, before.data()) == cudaSuccess);
    CHECK(before[0] == 0 && before[19] == 18);
  });
}

TEST(barriers) {
  in_all_schedules([] {
    std::vector<int> rotated(5 * 128);
    CHECK(launch({.grid = 5, .block = 128}, rotate, rotated.data()) == cudaSuccess);
    for (int i = 0; i < 5 * 128; ++i) {
      CHECK(rotated[i] == (i + 10) % 128);
    }
  });
}

TEST(wrong_collectives) {
  in_all_schedules([] {
    const Shape two_warps{.block = 64};
    CHECK(contains(failure(two_warps, at_different_barriers), "different barriers"));
    const std::string deadlock = failure({}, at_a_barrier_and_a_warp_function);
    CHECK(contains(deadlock, "deadlock: no thread of the block can go on; threads 0-0 at a warp"));
    CHECK(contains(deadlock, "threads 1-31 at a barrier"));
    CHECK(contains(failure({}, reads_outside_the_mask), "a shuffle of mask 0000ffff reads lane"));
    CHECK(contains(failure({}, reads_an_exited_lane), "reads lane 5"));
    CHECK(contains(failure({}, leaves_itself_out), "lane 0 calls a warp function whose mask"));
    CHECK(contains(failure({}, at_different_warp_functions), "different warp functions"));
    // The device still works.
    std::vector<int> rotated(128);
    CHECK(launch({.block = 128}, rotate, rotated.data()) == cudaSuccess);
    CHECK(rotated[0] == 10);
  });
}

}  // namespace selftest
