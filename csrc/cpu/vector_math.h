// Vectors of one machine register, written with the compiler's vector extensions: every operation
// is vector code by construction on x86 and Arm, and an instruction set is named only where the
// compiler finds no good instruction by itself. Torch's header-only vectors were the alternative:
// they offer no exp without linking to SLEEF, and share inline functions between instruction sets
// (see cpu/rows.h). Included only by rows.inc; all of it lies in an unnamed namespace because each
// instruction set compiles its own.
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

// The vector of a type, that of its lane numbers and of what a comparison gives, and those of as
// many double and int64 values.
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

// Lane i of the result is lane kLaneOf(i) of a; from the number of lanes on, of b.
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

// a * b + c, rounded once where the instruction set has a fused multiply-add, else twice. Only
// these functions fuse: the compiler must not, so that every compiler gives the same bits.
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
// a * b - c, likewise. Compilers do not always find it in a sum with -c.
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
// With constant factors or summands.
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

// The larger value; b if one of them is NaN.
template <class V>
inline V max(V a, V b) {
  return a > b ? a : b;
}

// As max(floor, t). The compiler takes two instructions where one operand is a constant.
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

// Vectors a and b dealt into each other like cards: the lower halves, or the upper ones.
template <class T>
inline vector_t<T> deal_lower(vector_t<T> a, vector_t<T> b) {
  constexpr auto kLane = [](int lane) { return lane % 2 * kLanes<T> + lane / 2; };
  return shuffle<T, kLane>(a, b);
}
template <class T>
inline vector_t<T> deal_upper(vector_t<T> a, vector_t<T> b) {
  constexpr auto kLane = [](int lane) { return lane % 2 * kLanes<T> + (lane + kLanes<T>) / 2; };
  return shuffle<T, kLane>(a, b);
}

// Folds each of as many vectors as they have lanes into one value; lane i is that of vector i. Each
// round deals two vectors into each other and folds the upper halves onto the lower.
template <class T, class Fold>
inline vector_t<T> fold_each(vector_t<T>* vectors, Fold op) {
#pragma GCC unroll 4
  for (int half = kLanes<T> / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) {
      const vector_t<T> a = vectors[i];
      const vector_t<T> b = vectors[i + half];
      vectors[i] = op(deal_lower<T>(a, b), deal_upper<T>(a, b));
    }
  }
  return vectors[0];
}

// A vector from pieces of 16 bytes, and the half of one from pieces of 8, which widen to as many.
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

// In each 16 bytes for themselves, lane j of vector i and lane i of vector j change places, for as
// many vectors as those have lanes: the bits of i and j are one number, which a round turns by one
// place.
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
    vector_t<T> dealt[kCount];
#pragma GCC unroll 2
    for (int i = 0; i < kCount / 2; ++i) {
      dealt[2 * i] = shuffle<T, kLower>(vectors[i], vectors[i + kCount / 2]);
      dealt[2 * i + 1] = shuffle<T, kUpper>(vectors[i], vectors[i + kCount / 2]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i) {
      vectors[i] = dealt[i];
    }
  }
}

// Folds the lanes of one vector into one value.
template <class T, class Fold, int kDistance = kLanes<T> / 2>
inline T fold(vector_t<T> v, Fold op) {
  if constexpr (kDistance == 0) {
    return v[0];
  } else {
    constexpr auto kUpper = [](int lane) { return (lane + kDistance) % kLanes<T>; };
    return fold<T, Fold, kDistance / 2>(op(v, shuffle<T, kUpper>(v, v)), op);
  }
}

inline constexpr auto kMax = [](auto a, auto b) { return max(a, b); };
inline constexpr auto kSum = [](auto a, auto b) { return a + b; };

#if defined(__AVX512F__)
// 2^(j/32).
alignas(64) inline constexpr float kPowers[32] = {
    1.0f,        1.0218972f,  1.04427373f, 1.06714046f, 1.09050775f, 1.1143868f,  1.13878858f,
    1.1637249f,  1.18920708f, 1.21524739f, 1.24185777f, 1.26905096f, 1.29683959f, 1.32523668f,
    1.35425556f, 1.38390994f, 1.41421354f, 1.44518077f, 1.47682619f, 1.50916445f, 1.54221082f,
    1.5759809f,  1.61049032f, 1.64575553f, 1.68179286f, 1.71861935f, 1.75625217f, 1.79470909f,
    1.8340081f,  1.87416768f, 1.91520655f, 1.95714414f};
#endif

inline constexpr float kLog2E = 1.44269504f;

// A power of two as a product: adding it to a sum takes no multiplication of its own.
struct Power {
  FloatVector fraction;
  FloatVector scale;

  FloatVector value() const { return fraction * scale; }
  FloatVector add_to(FloatVector sum) const { return multiply_add(fraction, scale, sum); }
};

#if defined(__AVX512F__)
// Adding it rounds to multiples of 1/32: the last five bits are an index of kPowers.
inline constexpr float kRound = 0x1.8p18f;
#else
// Adding it rounds to an integer, whose low bits are the exponent of the scale.
inline constexpr float kRound = 0x1.8p23f + 127.0f;
#endif

// 2^u from u + kRound and from what that rounding has left of u.
[[gnu::always_inline]] inline Power power_of(FloatVector shifted, FloatVector rest) {
#if defined(__AVX512F__)
  // A table of 2^(j/32) in two registers: for the rest a polynomial of degree 2 is enough.
  const FloatVector power = (FloatVector)_mm512_permutex2var_ps(
      load<__m512>(kPowers), (__m512i)(shifted), load<__m512>(kPowers + 16));
  // Minimax for 2^r on [-1/64, 1/64], relative error 5.4e-8.
  FloatVector p = multiply_add(rest, 0.240226492f, 0.693157315f);
  p = multiply_add(p, rest, 1.0f);
  // Multiply by 2^floor. For u = -inf the rest is NaN, and scaling that by -inf gives 0.
  p = (FloatVector)_mm512_maskz_scalef_ps(0xffff, (__m512)p, (__m512)(shifted - kRound));
  return {p, power};
#else
  // Minimax for 2^r on [-1/2, 1/2], relative error 1.6e-8.
  FloatVector p = multiply_add(rest, 1.5353362e-4f, 1.33988739e-3f);
  p = multiply_add(p, rest, 9.61843692e-3f);
  p = multiply_add(p, rest, 5.55033237e-2f);
  p = multiply_add(p, rest, 2.40226477e-1f);
  p = multiply_add(p, rest, 6.93147182e-1f);
  p = multiply_add(p, rest, 1.0f);
  return {p, (FloatVector)((UintVector)(shifted) << 23)};
#endif
}

// 2^u for |u| <= 126: relative error below 1.8e-7, exact at 0, NaN for NaN. With AVX-512 also for
// any other u, where it ends in 0 and infinity. Always inlined, like its callers: a call in a loop
// would cost half as much again, and compilers stop inlining at some size.
[[gnu::always_inline]] inline Power exp2_lanes(FloatVector u) {
  const FloatVector shifted = u + kRound;
  return power_of(shifted, u - (shifted - kRound));
}

// Any u as exp2_lanes takes it: where it would overflow, a number so large that it shows, and so
// does NaN.
inline FloatVector tamed(FloatVector u) {
#if defined(__AVX512F__)
  return u;
#else
  const FloatVector limit = FloatVector{} + 126.0f;
  return at_least(-limit, u < limit ? u : limit);
#endif
}

// Where exp leaves the normal float32 numbers.
inline constexpr float kExpFloor = -87.0f;

// exp(t) for t <= 64: relative error below 2.3e-7 + 7.4e-8 |t|, exact at 0, NaN for NaN. What lies
// below the floor counts as the floor: nothing beside a sum that holds exp(0).
[[gnu::always_inline]] inline Power exp_lanes(FloatVector t) {
  t = at_least(FloatVector{} + kExpFloor, t);
  const FloatVector shifted = multiply_add(t, kLog2E, FloatVector{} + kRound);
  return power_of(shifted, multiply_subtract(t, FloatVector{} + kLog2E, shifted - kRound));
}

// float64 logits are for reference and debugging: libm's accuracy matters there, speed does not.
struct DoublePower {
  DoubleVector power;

  DoubleVector value() const { return power; }
  DoubleVector add_to(DoubleVector sum) const { return sum + power; }
};
inline DoublePower exp_lanes(DoubleVector t) {
  for (int lane = 0; lane < kLanes<double>; ++lane) {
    t[lane] = __builtin_exp(t[lane]);
  }
  return {t};
}

// log(x) for x >= 0, within 3 ulp of a double, or of relative error below 6e-11 where the result is
// going to be a float: with x = 2^k m and s = (m - 1) / (m + 1), log(x) = k ln 2 + 2 artanh(s) by
// its Taylor series; |s| < 0.172 for m in [sqrt(1/2), sqrt(2)).
template <class Result>
inline DoubleVector log_nonnegative(DoubleVector x) {
  const UlongVector root_half = UlongVector{} + 0x3fe6a09e667f3bcd;
  LongVector k = (LongVector)((UlongVector)(x)-root_half) >> 52;
  DoubleVector m = (DoubleVector)((UlongVector)(x) - ((UlongVector)(k) << 52));
  DoubleVector s = (m - 1.0) / (m + 1.0);
  DoubleVector z = s * s;
  constexpr int kTerms = std::is_same_v<Result, double> ? 10 : 5;
  DoubleVector p = DoubleVector{} + 2.0 / (2 * kTerms + 1);
#pragma GCC unroll 10
  for (int term = kTerms - 1; term > 0; --term) {
    p = multiply_add(p, z, 2.0 / (2 * term + 1));
  }
  DoubleVector exponent = __builtin_convertvector(k, DoubleVector);
  // ln 2 in two parts: the first has few bits, so its product with an exponent is exact.
  DoubleVector result = multiply_add(p * z, s, 2.0 * s);
  result = multiply_add(exponent, 1.90821492927058770002e-10, result);
  result = multiply_add(exponent, 6.93147180369123816490e-01, result);
  const DoubleVector infinity = DoubleVector{} + __builtin_inf();
  result = x < infinity ? result : x;
  return x == 0.0 ? -infinity : result;
}

inline UintVector widen_bits(HalfVector bits) {
#if defined(__AVX512F__)
  return (UintVector)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)bits);
#elif defined(__AVX2__)
  return (UintVector)_mm256_cvtepu16_epi32((__m128i)bits);
#else
  return __builtin_convertvector(bits, UintVector);
#endif
}

inline FloatVector widen_bfloat16(HalfVector bits) { return (FloatVector)(widen_bits(bits) << 16); }

inline FloatVector widen_float16(HalfVector bits) {
#if defined(__AVX512F__)
  return (FloatVector)_mm512_maskz_cvtph_ps(0xffff, (__m256i)(bits));
#elif defined(__F16C__)
  return (FloatVector)_mm256_cvtph_ps((__m128i)(bits));
#else
  // Moves exponent and fraction to their float32 places and repairs the exponent's bias; infinity
  // and NaN keep the largest exponent. A denormal becomes the fraction of 2^-14, which is then
  // taken away: no operand is a float32 denormal, so flushing those to zero changes nothing.
  UintVector wide = widen_bits(bits);
  UintVector magnitude = (wide & 0x7fffu) << 13;
  UintVector normal = magnitude + (112u << 23);
  UintVector denormal = (UintVector)((FloatVector)(magnitude + (113u << 23)) - 0x1p-14f);
  UintVector special = magnitude | 0x7f800000u;
  UintVector finite = magnitude < (UintVector{} + 0x00800000u) ? denormal : normal;
  UintVector result = magnitude >= (UintVector{} + 0x0f800000u) ? special : finite;
  return (FloatVector)(result | ((wide & 0x8000u) << 16));
#endif
}

}  // namespace
