// Correct and wrong uses of atomics, shared memory, loads and intrinsics.
#include <cmath>
#include <cstdint>
#include <vector>

#include "selftest/check.h"

namespace selftest {
namespace {

struct Atoms {
  unsigned sum = 0;
  unsigned wrapped = 0;
  unsigned exchanged = 0;
  unsigned in_shared = 0;
  unsigned long long sum64 = 0;
};
__global__ void atoms(Atoms* out) {
  __shared__ unsigned counter;
  const unsigned t = threadIdx.x;
  atomicAdd(&out->sum, 1u << 31 | 1);
  atomicAdd(&out->sum64, 1ull << 32);
  atomicInc(&out->wrapped, 6u);
  atomicExch(&out->exchanged, 3u);
  if (t == 0) {
    counter = 0;
  }
  __syncthreads();
  atomicAdd(&counter, t);
  __syncthreads();
  if (t == 0) {
    out->in_shared = counter;
  }
}

// A template and a plain function, because their variables are linked differently.
template <int kSize>
__device__ int count_fresh_static() {
  __shared__ int values[kSize];
  int fresh = 0;
  for (int i = 0; i < kSize; ++i) {
    fresh += values[i] == -1;
  }
  __syncthreads();
  values[threadIdx.x] = 7;
  return fresh;
}
__global__ void count_fresh(int* fresh_static, int* fresh_dynamic) {
  __shared__ float plain[64];
  auto* dynamic = reinterpret_cast<float*>(dynamic_shared());
  const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
  fresh_static[at] = count_fresh_static<64>() + std::isnan(plain[threadIdx.x]);
  fresh_dynamic[at] = std::isnan(dynamic[threadIdx.x]);
  __syncthreads();
  plain[threadIdx.x] = 1;
  dynamic[threadIdx.x] = 1;
}

__global__ void load_and_compute(const uint4* in, unsigned* out) {
  const uint4 value = __ldcs(in + threadIdx.x);
  out[0] = value.x + __ldg(&in->y) + __ldcg(&in->z);
  out[1] = __float_as_uint(1.0f + __uint_as_float(0x40000000u));
  out[2] = static_cast<unsigned>(min(7u, 5u)) + make_uint4(1, 2, 3, 4).w;
}

__global__ void load_at(const unsigned char* bytes) {
  __ldcs(reinterpret_cast<const uint4*>(bytes));
}
__global__ void count_at(unsigned char* bytes) {
  atomicAdd(reinterpret_cast<unsigned*>(bytes), 1u);
}

__global__ void write_dynamic(int count) {
  auto* values = reinterpret_cast<volatile int*>(dynamic_shared());
  for (int i = 0; i < count; ++i) {
    values[i] = i;
  }
}
__global__ void copy_one_too_many(const float* in, float* out, int count) {
  for (int i = threadIdx.x; i <= count; i += blockDim.x) {
    out[i % count] = in[i];
  }
}

}  // namespace

TEST(atomics) {
  in_all_schedules([] {
    Atoms out;
    CHECK(launch({.block = 64}, atoms, &out) == cudaSuccess);
    CHECK(out.sum == 64 && out.sum64 == 64ull << 32);
    CHECK(out.wrapped == 64 % 7 && out.exchanged == 3);
    CHECK(out.in_shared == 63 * 64 / 2);
  });
}

TEST(shared_memory) {
  in_all_schedules([] {
    constexpr int kThreads = 64;
    constexpr int kBlocks = 9;
    const Shape shape{.grid = kBlocks, .block = kThreads, .dynamic_shared = kThreads * 4};
    for (int repeat = 0; repeat < 3; ++repeat) {
      std::vector<int> fresh_static(kBlocks * kThreads);
      std::vector<int> fresh_dynamic(kBlocks * kThreads);
      CHECK(launch(shape, count_fresh, fresh_static.data(), fresh_dynamic.data()) == cudaSuccess);
      for (int i = 0; i < kBlocks * kThreads; ++i) {
        CHECK(fresh_static[i] == kThreads + 1);
        CHECK(fresh_dynamic[i] == 1);
      }
    }
  });
}

TEST(intrinsics) {
  const std::vector<uint4> in(1, make_uint4(1, 2, 3, 4));
  std::vector<unsigned> out(3);
  CHECK(launch({.block = 1}, load_and_compute, in.data(), out.data()) == cudaSuccess);
  CHECK((out == std::vector<unsigned>{6, 0x40400000u, 9}));
}

TEST(wrong_memory) {
  in_all_schedules([] {
    alignas(16) unsigned char bytes[64] = {};
    CHECK(contains(failure({}, load_at, bytes + 8), "misaligned load of 16 bytes"));
    CHECK(contains(failure({}, count_at, bytes + 2), "misaligned 4-byte atomic"));
    CHECK(launch({}, load_at, bytes + 16) == cudaSuccess);
  });
}

TEST(mistake_global) {
  std::vector<float> in(40);
  std::vector<float> out(40);
  launch({}, copy_one_too_many, in.data(), out.data(), 40);
}

TEST(mistake_dynamic_shared) { launch({.block = 1, .dynamic_shared = 64}, write_dynamic, 17); }

}  // namespace selftest
