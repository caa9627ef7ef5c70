// GPU instructions that C++ has no words for. The tests put a plain C++ version of this file in its
// place: tests/emulator/overrides/cuda/intrinsics.cuh.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

namespace rho_ext {

// 2^x within 2^-22 of the result; results below the normal numbers become zero.
__device__ __forceinline__ float exp2_approx(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}

__device__ __forceinline__ float float16_to_float(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

// Load 16 bytes that are read once, so they take no place in the L1 cache.
__device__ __forceinline__ uint4 load_once(const void* from) {
  uint4 bits;
  asm("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
      : "l"(from));
  return bits;
}

__device__ __forceinline__ unsigned char* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char dynamic_shared_memory[];
  return dynamic_shared_memory;
}

}  // namespace rho_ext
