// Vectors of one machine register, written with the compiler's vector extensions: every operation
// is vector code by construction on x86 and Arm, and no instruction set is named. Included only by
// rows.inc; all of it lies in an unnamed namespace because each instruction set compiles its own.
#pragma once

#include <cstdint>

namespace {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

template <class T>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

typedef float FloatVector __attribute__((vector_size(kVectorBytes)));
typedef int32_t IntVector __attribute__((vector_size(kVectorBytes)));
typedef uint32_t UintVector __attribute__((vector_size(kVectorBytes)));
typedef uint16_t HalfVector __attribute__((vector_size(kVectorBytes / 2)));
typedef double DoubleVector __attribute__((vector_size(kVectorBytes)));

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  using type = FloatVector;
};
template <>
struct VectorOf<double> {
  using type = DoubleVector;
};
template <class T>
using vector_t = typename VectorOf<T>::type;

template <class V, class T>
inline V load(const T* from) {
  V value;
  __builtin_memcpy(&value, from, sizeof(V));
  return value;
}

template <class V, class T>
inline void store(T* to, V value) {
  __builtin_memcpy(to, &value, sizeof(V));
}

// exp(t) for t <= 0, relative error below 2 ulp; NaN stays NaN. Below t = -87, where float32 ends,
// the result is 0.
inline FloatVector exp_nonpositive(FloatVector t) {
  const FloatVector floor = FloatVector{} - 87.0f;
  // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
  FloatVector shifted = t * 1.44269504f + 12582912.0f;
  FloatVector power = shifted - 12582912.0f;
  // ln 2 in two parts: the first has few bits, so its product with a small integer is exact.
  FloatVector r = t - power * 0.693145752f;
  r = r - power * 1.42860677e-6f;
  // Minimax for exp on [-ln2 / 2, ln2 / 2], relative error 1.9e-9.
  FloatVector p = r * 1.38368329e-3f + 8.37483443e-3f;
  p = p * r + 4.16682251e-2f;
  p = p * r + 1.66664198e-1f;
  p = p * r + 4.99999911e-1f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  // A product, not an addition to the exponent, so that NaN stays NaN.
  UintVector scale = ((UintVector)(shifted) + 127u) << 23;
  FloatVector result = p * (FloatVector)(scale);
  return t < floor ? FloatVector{} : result;
}

// float64 logits are for reference and debugging: libm's accuracy matters there, speed does not.
inline DoubleVector exp_nonpositive(DoubleVector t) {
  for (int lane = 0; lane < kLanes<double>; ++lane) {
    t[lane] = __builtin_exp(t[lane]);
  }
  return t;
}

template <class V>
inline V max(V a, V b) {
  return a > b ? a : b;
}

template <class T>
inline T max_lane(vector_t<T> v) {
  T result = v[0];
  for (int lane = 1; lane < kLanes<T>; ++lane) {
    result = v[lane] > result ? v[lane] : result;
  }
  return result;
}

template <class T>
inline double sum_lanes(vector_t<T> v) {
  double result = 0;
  for (int lane = 0; lane < kLanes<T>; ++lane) {
    result += static_cast<double>(v[lane]);
  }
  return result;
}

inline FloatVector widen_bfloat16(HalfVector bits) {
  return (FloatVector)(__builtin_convertvector(bits, UintVector) << 16);
}

// Moves exponent and fraction to their float32 places and repairs the exponent's bias; infinity and
// NaN keep the largest exponent. A denormal becomes the fraction of 2^-14, which is then taken
// away: no operand is a float32 denormal, so flushing those to zero changes nothing.
inline FloatVector widen_float16(HalfVector bits) {
  UintVector wide = __builtin_convertvector(bits, UintVector);
  UintVector magnitude = (wide & 0x7fffu) << 13;
  UintVector normal = magnitude + (112u << 23);
  UintVector denormal = (UintVector)((FloatVector)(magnitude + (113u << 23)) - 0x1p-14f);
  UintVector special = magnitude | 0x7f800000u;
  UintVector finite = magnitude < (UintVector{} + 0x00800000u) ? denormal : normal;
  UintVector result = magnitude >= (UintVector{} + 0x0f800000u) ? special : finite;
  return (FloatVector)(result | ((wide & 0x8000u) << 16));
}

}  // namespace
