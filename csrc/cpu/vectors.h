// Vectors of one machine register, by the compiler's vector extensions. Every operation is vector
// code on x86 and Arm. Intrinsics stand only where the compiler finds no good instruction.
//
// Torch's header-only vectors do not fit: they have no exp without SLEEF, and they share inline
// functions between instruction sets (see cpu/rows.h). Included only by rows.inc. Everything lies
// in an unnamed namespace, because each instruction set compiles its own copy.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

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
typedef int64_t LongVector __attribute__((vector_size(kVectorBytes)));
typedef uint64_t UlongVector __attribute__((vector_size(kVectorBytes)));
typedef double WideVector __attribute__((vector_size(2 * kVectorBytes)));
typedef int64_t WideLongVector __attribute__((vector_size(2 * kVectorBytes)));

// For an element type: its vector, the vector of lane numbers and comparison results, and vectors
// of as many double and int64 values.
template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  using Values = FloatVector;
  using Lanes = IntVector;
  using Wide = WideVector;
  using WideLanes = WideLongVector;
};
template <>
struct VectorOf<double> {
  using Values = DoubleVector;
  using Lanes = LongVector;
  using Wide = DoubleVector;
  using WideLanes = LongVector;
};
template <class T>
using vector_t = typename VectorOf<T>::Values;
template <class T>
using lanes_t = typename VectorOf<T>::Lanes;
template <class T>
using wide_t = typename VectorOf<T>::Wide;
template <class T>
using wide_lanes_t = typename VectorOf<T>::WideLanes;

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

// Lane i of the result is lane kLaneOf(i) of a followed by b.
template <class T, auto kLaneOf>
inline vector_t<T> shuffle(vector_t<T> a, vector_t<T> b) {
  return [=]<int... kLane>(std::integer_sequence<int, kLane...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, kLaneOf(kLane)...);
#else
    return __builtin_shuffle(a, b, lanes_t<T>{kLaneOf(kLane)...});
#endif
  }(std::make_integer_sequence<int, kLanes<T>>{});
}

template <class T>
inline lanes_t<T> lane_numbers() {
  return []<int... kLane>(std::integer_sequence<int, kLane...>) {
    return lanes_t<T>{kLane...};
  }(std::make_integer_sequence<int, kLanes<T>>{});
}

// Return a * b + c, rounded once where the instruction set has a fused multiply-add, else twice.
// The compiler may not fuse anything itself, so that every compiler gives the same bits. The
// branches for Arm have run in an emulator only.
inline double multiply_add(double a, double b, double c) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}
inline FloatVector multiply_add(FloatVector a, FloatVector b, FloatVector c) {
#if defined(__AVX512F__)
  return (FloatVector)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (FloatVector)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (FloatVector)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}
inline DoubleVector multiply_add(DoubleVector a, DoubleVector b, DoubleVector c) {
#if defined(__AVX512F__)
  return (DoubleVector)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__FMA__)
  return (DoubleVector)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__aarch64__)
  return (DoubleVector)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
  return a * b + c;
#endif
}
inline WideVector multiply_add(WideVector a, WideVector b, WideVector c) {
  DoubleVector x[2], y[2], z[2];
  __builtin_memcpy(x, &a, sizeof(a));
  __builtin_memcpy(y, &b, sizeof(b));
  __builtin_memcpy(z, &c, sizeof(c));
  const DoubleVector halves[2] = {multiply_add(x[0], y[0], z[0]), multiply_add(x[1], y[1], z[1])};
  return load<WideVector>(halves);
}
// a * b - c, likewise. GCC does not always find the instruction in a sum with -c.
inline FloatVector multiply_subtract(FloatVector a, FloatVector b, FloatVector c) {
#if defined(__AVX512F__)
  return (FloatVector)_mm512_fmsub_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (FloatVector)_mm256_fmsub_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return multiply_add(a, b, -c);
#else
  return a * b - c;
#endif
}

// The same with constants.
inline FloatVector multiply_add(FloatVector a, float b, FloatVector c) {
  return multiply_add(a, FloatVector{} + b, c);
}
inline FloatVector multiply_add(FloatVector a, FloatVector b, float c) {
  return multiply_add(a, b, FloatVector{} + c);
}
inline FloatVector multiply_add(FloatVector a, float b, float c) {
  return multiply_add(a, FloatVector{} + b, FloatVector{} + c);
}
inline DoubleVector multiply_add(DoubleVector a, double b, DoubleVector c) {
  return multiply_add(a, DoubleVector{} + b, c);
}
inline DoubleVector multiply_add(DoubleVector a, DoubleVector b, double c) {
  return multiply_add(a, b, DoubleVector{} + c);
}

// Return the larger value, or b if one of them is NaN.
template <class V>
inline V max(V a, V b) {
  return a > b ? a : b;
}

// Return max(floor, t). The compiler takes two instructions if one operand is a constant.
inline FloatVector at_least(FloatVector floor, FloatVector t) {
#if defined(__AVX512F__)
  return (FloatVector)_mm512_maskz_max_ps(0xffff, (__m512)floor, (__m512)t);
#elif defined(__AVX2__)
  return (FloatVector)_mm256_max_ps((__m256)floor, (__m256)t);
#elif defined(__SSE2__)
  return (FloatVector)_mm_max_ps((__m128)floor, (__m128)t);
#else
  return max(floor, t);
#endif
}

// Interleave the lower, or the upper, halves of a and b: a0 b0 a1 b1 ...
template <class T>
inline vector_t<T> interleave_lower(vector_t<T> a, vector_t<T> b) {
  constexpr auto kLane = [](int lane) { return lane % 2 * kLanes<T> + lane / 2; };
  return shuffle<T, kLane>(a, b);
}
template <class T>
inline vector_t<T> interleave_upper(vector_t<T> a, vector_t<T> b) {
  constexpr auto kLane = [](int lane) { return lane % 2 * kLanes<T> + (lane + kLanes<T>) / 2; };
  return shuffle<T, kLane>(a, b);
}

// Reduce each of kLanes vectors to one value: lane i of the result belongs to vector i. Each round
// interleaves two vectors and reduces their lower and upper halves.
template <class T, class Op>
inline vector_t<T> reduce_each(vector_t<T>* vectors, Op op) {
#pragma GCC unroll 4
  for (int half = kLanes<T> / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) {
      const vector_t<T> a = vectors[i];
      const vector_t<T> b = vectors[i + half];
      vectors[i] = op(interleave_lower<T>(a, b), interleave_upper<T>(a, b));
    }
  }
  return vectors[0];
}

// Join pieces of 16 bytes to a vector, or pieces of 8 bytes to half a vector.
inline constexpr int kPieces = kVectorBytes / 16;
inline UintVector join_pieces(const void* const (&from)[kPieces]) {
#if defined(__AVX512F__)
  const auto piece = [&](int i) { return _mm_loadu_si128(static_cast<const __m128i*>(from[i])); };
  const __m512i lower = _mm512_inserti32x4(_mm512_castsi128_si512(piece(0)), piece(1), 1);
  return (UintVector)_mm512_inserti32x4(_mm512_inserti32x4(lower, piece(2), 2), piece(3), 3);
#elif defined(__AVX2__)
  const auto piece = [&](int i) { return _mm_loadu_si128(static_cast<const __m128i*>(from[i])); };
  return (UintVector)_mm256_inserti128_si256(_mm256_castsi128_si256(piece(0)), piece(1), 1);
#else
  return load<UintVector>(from[0]);
#endif
}
inline HalfVector join_half_pieces(const void* const (&from)[kPieces]) {
  typedef uint64_t Pieces __attribute__((vector_size(kVectorBytes / 2)));
  return [&]<int... kPiece>(std::integer_sequence<int, kPiece...>) {
    return (HalfVector)Pieces{load<uint64_t>(from[kPiece])...};
  }(std::make_integer_sequence<int, kPieces>{});
}

// Transpose kPieceLanes vectors within each 16 bytes: lane j of vector i and lane i of vector j
// change places. The bits of i and j form one number; each round rotates it by one bit.
template <class T>
inline constexpr int kPieceLanes = 16 / static_cast<int>(sizeof(T));
template <class T>
constexpr int lane_within_piece(int lane, int from) {
  const int within = lane % kPieceLanes<T>;
  return lane - within + within / 2 + from + within % 2 * kLanes<T>;
}
template <class T>
inline void transpose_pieces(vector_t<T>* vectors) {
  constexpr int kCount = kPieceLanes<T>;
  constexpr auto kLower = [](int lane) { return lane_within_piece<T>(lane, 0); };
  constexpr auto kUpper = [](int lane) { return lane_within_piece<T>(lane, kPieceLanes<T> / 2); };
#pragma GCC unroll 2
  for (int round = 1; round < kCount; round *= 2) {
    vector_t<T> interleaved[kCount];
#pragma GCC unroll 2
    for (int i = 0; i < kCount / 2; ++i) {
      interleaved[2 * i] = shuffle<T, kLower>(vectors[i], vectors[i + kCount / 2]);
      interleaved[2 * i + 1] = shuffle<T, kUpper>(vectors[i], vectors[i + kCount / 2]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i) {
      vectors[i] = interleaved[i];
    }
  }
}

// Reduce the lanes of one vector to one value.
template <class T, class Op, int kDistance = kLanes<T> / 2>
inline T reduce(vector_t<T> v, Op op) {
  if constexpr (kDistance == 0) {
    return v[0];
  } else {
    constexpr auto kUpper = [](int lane) { return (lane + kDistance) % kLanes<T>; };
    return reduce<T, Op, kDistance / 2>(op(v, shuffle<T, kUpper>(v, v)), op);
  }
}

inline constexpr auto kMax = [](auto a, auto b) { return max(a, b); };
inline constexpr auto kSum = [](auto a, auto b) { return a + b; };

}  // namespace
