// Correct and wrong uses of warp collectives and barriers.
#include <vector>

#include "selftest/check.h"
#include "selftest/tests.h"

namespace selftest {
namespace {

constexpr unsigned kAll = 0xffffffffu;

struct Shuffled {
  int from_three, flipped, down, up;
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
  mine.from_three = __shfl_sync(mask, value, 3);
  mine.flipped = __shfl_xor_sync(mask, value, 1);
  mine.down = __shfl_down_sync(mask, value, 4, 8);
  mine.up = __shfl_up_sync(mask, value, 1);
}
__global__ void shuffle_halves_at_different_rates(double* out) {
  const bool low = threadIdx.x < 16;
  double value = threadIdx.x;
  for (int i = 0; i < (low ? 3 : 9); ++i) {
    value = __shfl_xor_sync(low ? 0xffffu : 0xffff0000u, value, 1) + 1;
  }
  out[threadIdx.x] = value;
}

struct Voted {
  unsigned odd, same, sum;
  int any_last, all_small, most, least;
};
__global__ void vote_all(Voted* out) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const unsigned mask = mask_of_warp();
  Voted& mine = out[threadIdx.x];
  mine.odd = __ballot_sync(mask, lane & 1);
  mine.same = __match_any_sync(mask, lane / 4);
  mine.sum = __reduce_add_sync(mask, static_cast<unsigned>(lane));
  mine.any_last = __any_sync(mask, lane == 31);
  mine.all_small = __all_sync(mask, lane < 16);
  mine.most = __reduce_max_sync(mask, lane - 5);
  mine.least = __reduce_min_sync(mask, lane - 5);
  __syncwarp(mask);
}
__global__ void vote_without_the_exited(unsigned* out) {
  if (threadIdx.x >= 20) {
    return;
  }
  out[threadIdx.x] = __ballot_sync(kAll, 1);
}

__global__ void count_at_barriers(int* out) {
  if (threadIdx.x >= 40) {
    return;
  }
  const int t = static_cast<int>(threadIdx.x);
  __syncthreads();
  out[4 * t] = __syncthreads_count(t & 1);
  out[4 * t + 1] = __syncthreads_and(t < 40);
  out[4 * t + 2] = __syncthreads_and(t < 39);
  out[4 * t + 3] = __syncthreads_or(t == 39);
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
    __shfl_sync(0xffffu, 1, 20);
  }
}
__global__ void reads_an_exited_lane() {
  if (threadIdx.x != 5) {
    __shfl_sync(kAll, 1, 5);
  }
}
__global__ void leaves_itself_out() { __syncwarp(0xfffffffeu); }
__global__ void at_different_warp_functions() {
  if (threadIdx.x & 1) {
    __ballot_sync(kAll, 1);
  } else {
    __syncwarp();
  }
}
__global__ void shuffles_a_width_of_three() { __shfl_sync(kAll, 1, 0, 3); }

}  // namespace

void shuffles() {
  in_all_schedules([] {
    for (int threads : {32, 64, 40}) {
      std::vector<Shuffled> out(threads);
      CHECK(launch({.block = threads}, shuffle_all, out.data()) == cudaSuccess);
      for (int t = 0; t < threads; ++t) {
        CHECK(out[t].from_three == (t & ~31) + 3);
        CHECK(out[t].flipped == (t ^ 1));
        CHECK(out[t].down == (t % 8 < 4 ? t + 4 : t));
        CHECK(out[t].up == (t % 32 > 0 ? t - 1 : t));
      }
    }
    std::vector<double> out(32);
    CHECK(launch({}, shuffle_halves_at_different_rates, out.data()) == cudaSuccess);
    CHECK(out[0] == 1 + 3 && out[16] == 17 + 9);
  });
}

void votes() {
  in_all_schedules([] {
    for (int threads : {32, 96, 40}) {
      std::vector<Voted> out(threads);
      CHECK(launch({.block = threads}, vote_all, out.data()) == cudaSuccess);
      for (int t = 0; t < threads; ++t) {
        const int lanes = std::min(32, threads - (t & ~31));
        const unsigned mask = lanes == 32 ? kAll : (1u << lanes) - 1;
        CHECK(out[t].odd == (0xaaaaaaaau & mask));
        CHECK(out[t].same == 0xfu << (t % 32 & ~3));
        CHECK(out[t].sum == static_cast<unsigned>(lanes * (lanes - 1) / 2));
        CHECK(out[t].any_last == (lanes == 32));
        CHECK(out[t].all_small == (lanes <= 16));
        CHECK(out[t].most == lanes - 6);
        CHECK(out[t].least == -5);
      }
    }
    std::vector<unsigned> out(32);
    CHECK(launch({}, vote_without_the_exited, out.data()) == cudaSuccess);
    CHECK(out[0] == 0xfffffu && out[19] == 0xfffffu);
  });
}

void barriers() {
  in_all_schedules([] {
    std::vector<int> counts(4 * 40);
    CHECK(launch({.block = 64}, count_at_barriers, counts.data()) == cudaSuccess);
    for (int t = 0; t < 40; ++t) {
      CHECK(counts[4 * t] == 20 && counts[4 * t + 1] == 1);
      CHECK(counts[4 * t + 2] == 0 && counts[4 * t + 3] == 1);
    }
    std::vector<int> rotated(5 * 128);
    CHECK(launch({.grid = 5, .block = 128}, rotate, rotated.data()) == cudaSuccess);
    for (int i = 0; i < 5 * 128; ++i) {
      CHECK(rotated[i] == (i + 10) % 128);
    }
  });
}

void wrong_collectives() {
  in_all_schedules([] {
    const Shape two_warps{.block = 64};
    CHECK(contains(failure(two_warps, at_different_barriers), "different barriers"));
    const std::string deadlock = failure({}, at_a_barrier_and_a_warp_function);
    CHECK(contains(deadlock, "deadlock: no thread of the block can go on; threads 0-0 at a warp"));
    CHECK(contains(deadlock, "threads 1-31 at a barrier"));
    CHECK(contains(failure({}, reads_outside_the_mask), "reads lane 20"));
    CHECK(contains(failure({}, reads_an_exited_lane), "reads lane 5"));
    CHECK(contains(failure({}, leaves_itself_out), "lane 0 calls a warp function whose mask"));
    CHECK(contains(failure({}, at_different_warp_functions), "different warp functions"));
    CHECK(contains(failure({}, shuffles_a_width_of_three), "power of two up to 32, got 3"));
    // The device still works.
    std::vector<int> rotated(128);
    CHECK(launch({.block = 128}, rotate, rotated.data()) == cudaSuccess);
    CHECK(rotated[0] == 10);
  });
}

}  // namespace selftest
