// exp, log and conversions to float32 for the vectors of vectors.h. Included only by rows.inc.
#pragma once

#include "cpu/vectors.h"

namespace {

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

// A power of two as a product. Adding it to a sum is one fused multiply-add.
struct Power {
  FloatVector fraction;
  FloatVector scale;

  FloatVector value() const { return fraction * scale; }
  FloatVector add_to(FloatVector sum) const { return multiply_add(fraction, scale, sum); }
};

#if defined(__AVX512F__)
// Adding it rounds to multiples of 1/32. The last five bits are an index of kPowers.
inline constexpr float kRound = 0x1.8p18f;
#else
// Adding it rounds to an integer. Its low bits are the exponent of the scale.
inline constexpr float kRound = 0x1.8p23f + 127.0f;
#endif

// Return 2^u from u + kRound and the rest that this rounding has cut off.
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

// Return 2^u for |u| <= 126: relative error below 1.8e-7, exact at 0, NaN for NaN. With AVX-512 any
// other u gives 0 or infinity as it should. Always inlined, like its callers: a call in a loop
// costs 50 % more, and compilers stop inlining at some size.
[[gnu::always_inline]] inline Power exp2_lanes(FloatVector u) {
  const FloatVector shifted = u + kRound;
  return power_of(shifted, u - (shifted - kRound));
}

// Limit u to what exp2_lanes accepts. Overflow and NaN become 2^126, which callers detect.
inline FloatVector clamp_exponent(FloatVector u) {
#if defined(__AVX512F__)
  return u;
#else
  const FloatVector limit = FloatVector{} + 126.0f;
  return at_least(-limit, u < limit ? u : limit);
#endif
}

// Below it exp is no normal float32 number.
inline constexpr float kExpFloor = -87.0f;

// Return exp(t) for t <= 64: relative error below 2.3e-7 + 7.4e-8 |t|, exact at 0, NaN for NaN.
// Below kExpFloor it returns exp(kExpFloor), which is negligible in a sum that contains exp(0).
[[gnu::always_inline]] inline Power exp_lanes(FloatVector t) {
  t = at_least(FloatVector{} + kExpFloor, t);
  const FloatVector shifted = multiply_add(t, kLog2E, FloatVector{} + kRound);
  return power_of(shifted, multiply_subtract(t, FloatVector{} + kLog2E, shifted - kRound));
}

// float64 logits are for reference and debugging: they need libm's accuracy, not speed.
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

// Return log(x) for x >= 0, within 3 ulp of a double, or with a relative error below 6e-11 if
// Result is float. With x = 2^k m and s = (m - 1) / (m + 1): log(x) = k ln 2 + 2 artanh(s), by its
// Taylor series. |s| < 0.172 for m in [sqrt(1/2), sqrt(2)).
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
  // ln 2 in two parts: the larger one has few bits, so its product with an exponent is exact.
  DoubleVector result = multiply_add(p * z, s, 2.0 * s);
  result = multiply_add(exponent, 1.90821492927058770002e-10, result);
  result = multiply_add(exponent, 6.93147180369123816490e-01, result);
  const DoubleVector infinity = DoubleVector{} + __builtin_inf();
  result = x < infinity ? result : x;
  return x == 0.0 ? -infinity : result;
}

inline UintVector zero_extend(HalfVector bits) {
#if defined(__AVX512F__)
  return (UintVector)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)bits);
#elif defined(__AVX2__)
  return (UintVector)_mm256_cvtepu16_epi32((__m128i)bits);
#else
  return __builtin_convertvector(bits, UintVector);
#endif
}

inline FloatVector bfloat16_to_float(HalfVector bits) {
  return (FloatVector)(zero_extend(bits) << 16);
}

inline FloatVector float16_to_float(HalfVector bits) {
#if defined(__AVX512F__)
  return (FloatVector)_mm512_maskz_cvtph_ps(0xffff, (__m256i)(bits));
#elif defined(__F16C__)
  return (FloatVector)_mm256_cvtph_ps((__m128i)(bits));
#else
  // Move exponent and fraction to their float32 places and correct the exponent's bias. Infinity
  // and NaN keep the largest exponent. A denormal becomes the fraction of 2^-14, which is
  // subtracted: no operand is a float32 denormal, so flushing denormals to zero changes nothing.
  UintVector wide = zero_extend(bits);
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
