// Correct and wrong uses of atomics, shared memory, loads and intrinsics.
#include <cmath>
#include <cstdint>
#include <vector>

#include "selftest/check.h"
#include "selftest/tests.h"

namespace selftest {
namespace {

struct Atoms {
  float sum = 0;
  double sum64 = 0;
  int most = -9;
  int least = 9;
  unsigned wrapped = 0;
  unsigned counted_down = 0;
  unsigned bits = 0;
  unsigned exchanged = 0;
  unsigned swapped = 0;
  unsigned in_shared = 0;
  unsigned long long sum_unsigned64 = 0;
  unsigned long long least64 = ~0ull;
};
__global__ void atoms(Atoms* out) {
  __shared__ unsigned counter;
  const unsigned t = threadIdx.x;
  atomicAdd(&out->sum, 0.5f);
  atomicAdd(&out->sum64, 0.25);
  atomicMax(&out->most, static_cast<int>(t) - 5);
  atomicMin(&out->least, 5 - static_cast<int>(t));
  atomicInc(&out->wrapped, 6u);
  atomicDec(&out->counted_down, 9u);
  atomicOr(&out->bits, 1u << (t % 32));
  atomicExch(&out->exchanged, 3u);
  atomicAdd(&out->sum_unsigned64, 1ull << 32);
  atomicMin(&out->least64, (1ull << 40) - t);
  while (atomicCAS(&out->swapped, t, t + 1) != t) {
  }
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

__global__ void load_and_store(const float4* in, float4* out) {
  float4 value = __ldcs(in + threadIdx.x);
  value.x += __ldg(&in->y) + __ldcg(&in->z);
  __stcs(out + threadIdx.x, value);
}
__global__ void bits_and_maths(unsigned* bits, float* values) {
  bits[0] = __popc(0xf0f0u);
  bits[1] = __clz(1 << 20) + 100 * __clz(0);
  bits[2] = __ffs(0x40) + 100 * __ffs(0);
  bits[3] = __brev(0x3u);
  bits[4] = __float_as_uint(1.0f);
  bits[5] = max(3, min(7u, 5u));
  bits[6] = __popcll(~0ull);
  values[0] = __uint_as_float(0x40000000u);
  values[1] = __expf(1.0f);
  values[2] = __logf(2.0f);
  values[3] = make_float4(1, 2, 3, 4).w + make_uint2(5, 6).y;
}

__global__ void load_at(const unsigned char* bytes) {
  __ldcs(reinterpret_cast<const uint4*>(bytes));
}
__global__ void store_at(unsigned char* bytes) {
  __stcg(reinterpret_cast<float2*>(bytes), make_float2(0, 0));
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

void atomics() {
  in_all_schedules([] {
    Atoms out;
    CHECK(launch({.block = 64}, atoms, &out) == cudaSuccess);
    CHECK(out.sum == 32 && out.sum64 == 16 && out.sum_unsigned64 == 64ull << 32);
    CHECK(out.most == 58 && out.least == -58 && out.least64 == (1ull << 40) - 63);
    CHECK(out.wrapped == 64 % 7 && out.counted_down == 6);
    CHECK(out.bits == 0xffffffffu && out.exchanged == 3 && out.swapped == 64);
    CHECK(out.in_shared == 63 * 64 / 2);
  });
}

void shared_memory() {
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

void intrinsics() {
  std::vector<float4> in(32, make_float4(1, 2, 3, 4));
  std::vector<float4> out(32);
  CHECK(launch({}, load_and_store, in.data(), out.data()) == cudaSuccess);
  CHECK(out[31].x == 6 && out[31].w == 4);
  std::vector<unsigned> bits(7);
  std::vector<float> values(4);
  CHECK(launch({.block = 1}, bits_and_maths, bits.data(), values.data()) == cudaSuccess);
  CHECK((bits == std::vector<unsigned>{8, 3211, 7, 0xc0000000u, 0x3f800000u, 5, 64}));
  CHECK(values[0] == 2.0f && std::fabs(values[1] - 2.7182818f) < 1e-6f);
  CHECK(std::fabs(values[2] - 0.6931472f) < 1e-6f && values[3] == 10.0f);
}

void wrong_memory() {
  in_all_schedules([] {
    alignas(16) unsigned char bytes[64] = {};
    CHECK(contains(failure({}, load_at, bytes + 8), "misaligned load of 16 bytes"));
    CHECK(contains(failure({}, store_at, bytes + 4), "misaligned store of 8 bytes"));
    CHECK(contains(failure({}, count_at, bytes + 2), "misaligned 4-byte atomic"));
    CHECK(launch({}, load_at, bytes + 16) == cudaSuccess);
  });
}

void mistake_global() {
  std::vector<float> in(40);
  std::vector<float> out(40);
  launch({}, copy_one_too_many, in.data(), out.data(), 40);
}

void mistake_dynamic_shared() { launch({.block = 1, .dynamic_shared = 64}, write_dynamic, 17); }

}  // namespace selftest
