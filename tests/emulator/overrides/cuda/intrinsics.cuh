// Plain C++ versions of csrc/cuda/intrinsics.cuh, for the emulator.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

namespace rho_ext {

// 2^x with the largest error that ex2.approx may have, 2^-22 of the result. The bits of x decide
// whether it is too large or too small. 2^0 is exact. Results below the normal numbers become zero.
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

inline float float16_to_float(uint16_t bits) {
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

inline uint4 load_once(const void* from) { return __ldcs(static_cast<const uint4*>(from)); }

}  // namespace rho_ext
