// Loads of logits: 16 bytes at a time, for any alignment.
#pragma once

#include <type_traits>

#include "cuda/intrinsics.cuh"
#include "cuda/launch.h"

namespace rho_ext {

struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(Float16 x) { return float16_to_float(x.bits); }
__device__ __forceinline__ float to_float(BFloat16 x) {
  return __uint_as_float(static_cast<uint32_t>(x.bits) << 16);
}

template <class T>
inline constexpr int kPackSize = static_cast<int>(kPackBytes / sizeof(T));

// Return the alignment of a row, at most 16 bytes. All its packs have the same.
__device__ __forceinline__ int alignment_of(const void* row) {
  const uint32_t bits = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(row)) | 16u;
  return static_cast<int>(bits & (~bits + 1));
}

// Load a pack of a row with an alignment below 16 bytes, in as few loads as possible. The lane
// takes the same logits as from an aligned row, so results do not depend on the alignment.
template <class T>
__device__ __forceinline__ uint4 load_unaligned(const T* from, int alignment) {
  // Several loads share a sector, so they go through the L1 cache.
  if (alignment == 8) {
    const uint2* p = reinterpret_cast<const uint2*>(from);
    const uint2 low = __ldg(p);
    const uint2 high = __ldg(p + 1);
    return make_uint4(low.x, low.y, high.x, high.y);
  }
  if (sizeof(T) == 4 || alignment == 4) {
    const uint32_t* p = reinterpret_cast<const uint32_t*>(from);
    return make_uint4(__ldg(p), __ldg(p + 1), __ldg(p + 2), __ldg(p + 3));
  }
  // The first and the last logit, and the aligned words between them: nothing outside the pack.
  const uint16_t* p = reinterpret_cast<const uint16_t*>(from);
  const uint32_t* words = reinterpret_cast<const uint32_t*>(p + 1);
  const uint32_t first = __ldg(p);
  const uint32_t a = __ldg(words);
  const uint32_t b = __ldg(words + 1);
  const uint32_t c = __ldg(words + 2);
  const uint32_t last = __ldg(p + 7);
  return make_uint4(first | a << 16, a >> 16 | b << 16, b >> 16 | c << 16, c >> 16 | last << 16);
}

// A pack of logits that are all -inf.
template <class T>
__device__ __forceinline__ uint4 negative_infinity() {
  const uint32_t word = std::is_same_v<T, float>     ? 0xff800000u
                        : std::is_same_v<T, Float16> ? 0xfc00fc00u
                                                     : 0xff80ff80u;
  return make_uint4(word, word, word, word);
}

__device__ __forceinline__ uint32_t bits_of(float x) { return __float_as_uint(x); }
__device__ __forceinline__ uint32_t bits_of(Float16 x) { return x.bits; }
__device__ __forceinline__ uint32_t bits_of(BFloat16 x) { return x.bits; }

// Load the last pack of a row, from logit `at` on, filled up with -inf.
template <class T>
__device__ __forceinline__ uint4 load_last_pack(const T* row, int at, int classes) {
  constexpr int kPerWord = kPackSize<T> / 4;
  constexpr int kWidth = 32 / kPerWord;
  constexpr uint32_t kMask = 0xffffffffu >> (32 - kWidth);
  const uint4 filler = negative_infinity<T>();
  uint32_t words[4] = {filler.x, filler.y, filler.z, filler.w};
#pragma unroll
  for (int i = 0; i < kPackSize<T>; ++i) {
    if (at + i < classes) {
      const int shift = i % kPerWord * kWidth;
      words[i / kPerWord] = (words[i / kPerWord] & ~(kMask << shift)) | bits_of(row[at + i])
                                                                            << shift;
    }
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

__device__ __forceinline__ float element_of(uint32_t word, int, float) {
  return __uint_as_float(word);
}
__device__ __forceinline__ float element_of(uint32_t word, int half, Float16) {
  return float16_to_float(static_cast<uint16_t>(half == 0 ? word & 0xffffu : word >> 16));
}
__device__ __forceinline__ float element_of(uint32_t word, int half, BFloat16) {
  return __uint_as_float(half == 0 ? word << 16 : word & 0xffff0000u);
}

template <class T>
__device__ __forceinline__ void pack_to_float(uint4 bits, float* to) {
  constexpr int kPerWord = kPackSize<T> / 4;
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < kPackSize<T>; ++i) {
    to[i] = element_of(words[i / kPerWord], i % kPerWord, T{});
  }
}

}  // namespace rho_ext
