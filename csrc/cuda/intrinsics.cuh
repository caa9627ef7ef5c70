// What the GPU can do and C++ cannot say, each with a twin for the emulator of the tests.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

namespace rho_ext {

#ifdef RHO_EMULATED

// 2^x as far off as ex2.approx may be, 2^-22 of the result, to either side by the bits of x; exact
// for 0. Results below the normal numbers are flushed to zero.
inline float exp2_approx(float x) {
  const double exact = std::exp2(static_cast<double>(x));
  const bool up = (__float_as_uint(x) * 0x9e3779b9u & 0x80000000u) != 0;
  const double limit = x == 0.0f ? exact : exact * (up ? 1 + 0x1p-22 : 1 - 0x1p-22);
  float power = static_cast<float>(limit);
  if (up ? power > limit : power < limit) {
    power = std::nextafter(power, static_cast<float>(exact));
  }
  return power < 0x1p-126f ? 0.0f : power;
}

inline float widen_float16(uint16_t bits) {
  const uint32_t sign = (bits & 0x8000u) << 16;
  const uint32_t magnitude = bits & 0x7fffu;
  if (magnitude >= 0x7c00u) {
    return __uint_as_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  }
  const float value =
      std::ldexp(static_cast<float>(magnitude < 0x400u ? magnitude : (magnitude & 0x3ffu) + 0x400u),
                 magnitude < 0x400u ? -24 : static_cast<int>(magnitude >> 10) - 25);
  return sign != 0 ? -value : value;
}

// 16 bytes that are read once: they need no place in the L1 cache.
inline uint4 load_once(const void* from) { return __ldcs(static_cast<const uint4*>(from)); }

#else

__device__ __forceinline__ float exp2_approx(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}

__device__ __forceinline__ float widen_float16(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

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

#endif

}  // namespace rho_ext
