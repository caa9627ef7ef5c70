// Reduce neighbouring logits of a row. Included only by rows.inc.
#pragma once

#include <cstddef>
#include <type_traits>

#include "cpu/prefetch.h"
#include "cpu/rows.h"
#include "cpu/vector_math.h"

namespace rho_ext {
namespace {

struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// float64 is computed in float64, everything else in float32.
template <class T>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};
template <class T>
using compute_t = typename ComputeType<T>::type;

template <class Real>
constexpr Real kLowest = -static_cast<Real>(__builtin_inf());

// Load kLanes logits in the type of the computation.
inline FloatVector load_logits(const Float16* from) {
  return float16_to_float(load<HalfVector>(from));
}
inline FloatVector load_logits(const BFloat16* from) {
  return bfloat16_to_float(load<HalfVector>(from));
}
inline FloatVector load_logits(const float* from) { return load<FloatVector>(from); }
inline DoubleVector load_logits(const double* from) { return load<DoubleVector>(from); }

// One logit.
inline double load_logit(const double* from) { return *from; }
inline double load_logit(const float* from) { return static_cast<double>(*from); }
template <class T>
inline double load_logit(const T* from) {
  HalfVector bits{from->bits};
  return static_cast<double>(load_logits(reinterpret_cast<const T*>(&bits))[0]);
}

// Two vectors of neighbouring logits, in the order that costs least.
template <class T>
struct TwoVectors {
  vector_t<compute_t<T>> first;
  vector_t<compute_t<T>> second;
};
template <class T>
inline TwoVectors<T> load_two_vectors(const T* from) {
  return {load_logits(from), load_logits(from + kLanes<compute_t<T>>)};
}
inline TwoVectors<BFloat16> load_two_vectors(const BFloat16* from) {
  // A bfloat16 is the upper half of a float32: shift the even ones there, mask the odd ones.
  const auto both = load<UintVector>(from);
  return {(FloatVector)(both << 16), (FloatVector)(both & 0xffff0000u)};
}

// Number of vectors that a loop reduces side by side, to hide the latency of each step.
constexpr int kChains = 4;

// Number of logits that are summed at a time. They stay in the L1 cache. A lane of a chain sums 64
// of them: longer chains would round too often.
template <class Real>
constexpr int64_t kBlock = 64 * kChains * kLanes<Real>;

// Prefetch the next rows, or the next blocks of this row. The hardware prefetcher stops at the end
// of every 4 KiB page.
inline void prefetch_ahead(const void* values) {
  constexpr int kAhead = 8192;
  prefetch_to_l2(static_cast<const char*>(values) + kAhead);
}
template <class T>
inline void prefetch_ahead(const T* values, int64_t count) {
  constexpr int64_t kPerLine = kCacheLine / static_cast<int64_t>(sizeof(T));
#pragma GCC unroll 2
  for (int64_t at = 0; at < count; at += kPerLine) {
    prefetch_ahead(values + at);
  }
}

// Neighbouring logits of a row. kWithoutLabel excludes the label's. If the last ones do not fill a
// vector, they are read in a vector that ends with them. Its first lanes hold earlier logits and do
// not count.
template <class T, Reduction kReduction>
struct Logits {
  using Real = compute_t<T>;
  using V = vector_t<Real>;
  static constexpr int kStep = kLanes<Real>;

  const T* values;
  int64_t count;
  int64_t label;  // index of the label's logit; negative if it is not among these

  bool has_rest() const { return count % kStep != 0; }

  V operator[](int64_t i) const {
    const V v = load_logits(values + i);
    if constexpr (kReduction == kWithoutLabel) {
      return lane_numbers<Real>() == static_cast<int>(label - i) ? V{} + kLowest<Real> : v;
    }
    return v;
  }
  lanes_t<Real> uncounted() const {
    return lane_numbers<Real>() < static_cast<int>(kStep - count % kStep);
  }
  // Return the last vector, with `filler` in the lanes that do not count.
  V rest(Real filler) const { return uncounted() ? V{} + filler : (*this)[count - kStep]; }

  // Return the maximum of each lane.
  V max() const {
    V best = has_rest() ? rest(kLowest<Real>) : (*this)[0];
    int64_t i = 0;
    if (count >= kChains * kStep) {
      V chains[kChains] = {best, best, best, best};
      for (; i + kChains * kStep <= count; i += kChains * kStep) {
        for (int chain = 0; chain < kChains; ++chain) {
          chains[chain] = kMax((*this)[i + chain * kStep], chains[chain]);
        }
      }
      best = kMax(kMax(chains[0], chains[1]), kMax(chains[2], chains[3]));
    }
    for (; i + kStep <= count; i += kStep) {
      best = kMax((*this)[i], best);
    }
    return best;
  }
};

// Return the maximum, or 0 if every logit so far was -inf: x - (-inf) would be NaN.
template <class V>
inline V safe_max(V largest) {
  return largest == -__builtin_inff() ? V{} : largest;
}

// The sum of exp(t) and the moment that the method needs, for each lane; t = x - base.
template <Reduction kReduction, class Real>
struct LaneSums {
  using V = vector_t<Real>;
  V sum = V{};
  V moment = V{};

  template <class Exp>
  void add(V t, const Exp& exp) {
    if constexpr (kReduction == kLogSumExp) {
      sum = exp.add_to(sum);
    } else {
      add_value(t, exp.value());
    }
  }
  // `e` is exp(t), or 0 in a lane that does not count.
  void add_value(V t, V e) {
    sum += e;
    if constexpr (kReduction == kWithoutLabel) {
      moment = multiply_add(e, e, moment);
    } else if constexpr (kReduction == kEntropySum) {
      // Add 0 where exp is negligible: for t = -inf the product would be NaN.
      moment -= t < V{} + static_cast<Real>(kExpFloor) ? V{} : e * t;
    }
  }
  LaneSums operator+(const LaneSums& other) const {
    return {sum + other.sum, moment + other.moment};
  }
};

// True if the sums are relative to the label's logit. The loss alone, without smoothing, allows any
// logit that is not far below the largest. The label's is known before the row is read, so no
// maximum is needed, and each logit is loaded and converted once. One fused multiply-add gives
//   u = x log2(e) - offset,  offset = label's logit * log2(e), rounded,
// and 2^u is summed. Rows whose sum is above `most`, NaN or infinity are summed again, relative to
// their maximum.
template <Reduction kReduction, class Real>
inline bool is_relative_to_label(const RowBlock& rows) {
  return kReduction == kLogSumExp && std::is_same_v<Real, float> && rows.smoothing == 0;
}

#if defined(__FMA__) || defined(__aarch64__)
template <class V>
inline V offset_of(V logit) {
  return logit * kLog2E;
}
inline FloatVector log2_above(FloatVector x, FloatVector offset) {
  return multiply_subtract(x, FloatVector{} + kLog2E, offset);
}
// True if the rounding error of the offset can be corrected.
inline auto is_correctable(auto offset) { return offset * offset < 0x1p30f; }
// Return the factor that corrects the powers for the rounding error of the offset.
template <class Wide>
inline Wide rounding_correction(Wide logit, Wide offset) {
  constexpr double kLn2 = 0.69314718055994530942;
  const Wide t = (logit * static_cast<double>(kLog2E) - offset) * kLn2;
  return t * t * 0.5 - t + 1.0;
}
#else
// Without a fused multiply-add the product would be rounded: subtract first.
template <class V>
inline V offset_of(V logit) {
  return logit;
}
inline FloatVector log2_above(FloatVector x, FloatVector offset) { return (x - offset) * kLog2E; }
inline auto is_correctable(auto offset) { return offset == offset; }
template <class Wide>
inline Wide rounding_correction(Wide, Wide) {
  return Wide{} + 1.0;
}
#endif
[[gnu::always_inline]] inline Power power_above(FloatVector x, FloatVector offset) {
  return exp2_lanes(clamp_exponent(log2_above(x, offset)));
}

// Return the sum of exp(x - label's logit) from the sum of the powers. The label's own term is set
// to exactly 1, so that the small loss of a learnt example keeps its digits.
template <class Wide>
inline Wide corrected_sum(Wide powers, Wide power_of_label, Wide logit, Wide offset) {
  return multiply_add(powers - power_of_label, rounding_correction(logit, offset), Wide{} + 1.0);
}

// Return the sum of 2^(x log2(e) - offset) of each lane.
template <class T>
inline FloatVector sum_above(const Logits<T, kLogSumExp>& logits, float offset) {
  constexpr int kStep = kLanes<float>;
  auto power = [&](FloatVector x) { return power_above(x, FloatVector{} + offset); };
  FloatVector total{};
  int64_t i = 0;
  if (logits.count >= kChains * kStep) {
    // Several chains also help accuracy: a sum of fewer terms is rounded less often.
    FloatVector chains[kChains] = {};
    for (; i + kChains * kStep <= logits.count; i += kChains * kStep) {
#pragma GCC unroll 2
      for (int chain = 0; chain < kChains; chain += 2) {
        const T* x = logits.values + i + chain * kStep;
        prefetch_ahead(x, 2 * kStep);
        const TwoVectors<T> two = load_two_vectors(x);
        chains[chain] = power(two.first).add_to(chains[chain]);
        chains[chain + 1] = power(two.second).add_to(chains[chain + 1]);
      }
    }
    total = (chains[0] + chains[1]) + (chains[2] + chains[3]);
  }
  for (; i + kStep <= logits.count; i += kStep) {
    prefetch_ahead(logits.values + i);
    total = power(logits[i]).add_to(total);
  }
  if (logits.has_rest()) {
    prefetch_ahead(logits.values + i);
    const FloatVector last = power(logits[logits.count - kStep]).value();
    total += logits.uncounted() ? FloatVector{} : last;
  }
  return total;
}

// Store the results of kLanes rows.
template <class Real>
inline void store_as_double(vector_t<Real> v, double* to) {
  store(to, __builtin_convertvector(v, wide_t<Real>));
}
template <Reduction kReduction, class Real>
inline void store_stats(vector_t<Real> largest, const LaneSums<kReduction, Real>& total,
                        int64_t first, BlockStats& stats) {
  // If every logit is -inf, set the sums to 0, but keep NaN.
  auto zero_if_empty = [&](auto sum) { return largest == -__builtin_inff() ? sum * 0 : sum; };
  store_as_double<Real>(largest, stats.max + first);
  store_as_double<Real>(zero_if_empty(total.sum), stats.sum + first);
  if constexpr (kReduction != kLogSumExp) {
    store_as_double<Real>(zero_if_empty(total.moment), stats.moment + first);
  }
}

template <Reduction kReduction, class T>
inline LaneSums<kReduction, compute_t<T>> lane_sums(const Logits<T, kReduction>& logits,
                                                    compute_t<T> base) {
  using Real = compute_t<T>;
  using V = vector_t<Real>;
  using Sums = LaneSums<kReduction, Real>;
  constexpr int kStep = kLanes<Real>;
  Sums total;
  int64_t i = 0;
  auto add_to = [&](Sums& sums, int64_t at) {
    prefetch_ahead(logits.values + at);
    const V t = logits[at] - base;
    sums.add(t, exp_lanes(t));
  };
  if (logits.count >= kChains * kStep) {
    // Several chains also help accuracy: a sum of fewer terms is rounded less often.
    Sums chains[kChains];
    for (; i + kChains * kStep <= logits.count; i += kChains * kStep) {
#pragma GCC unroll 4
      for (int chain = 0; chain < kChains; ++chain) {
        add_to(chains[chain], i + chain * kStep);
      }
    }
    total = (chains[0] + chains[1]) + (chains[2] + chains[3]);
  }
  for (; i + kStep <= logits.count; i += kStep) {
    add_to(total, i);
  }
  if (logits.has_rest()) {
    prefetch_ahead(logits.values + i);
    const V t = logits.rest(base) - base;
    total.add_value(t, logits.uncounted() ? V{} : exp_lanes(t).value());
  }
  return total;
}

// Label smoothing: return the sum of (base - x) over all logits. In double, so that one logit far
// below the others does not cost digits of the sum.
template <class T>
inline double distance(const Logits<T, kLogSumExp>& logits, compute_t<T> base) {
  using Real = compute_t<T>;
  constexpr int kStep = kLanes<Real>;
  wide_t<Real> total{};
  for (int64_t i = 0; i + kStep <= logits.count; i += kStep) {
    total += __builtin_convertvector(base - logits[i], wide_t<Real>);
  }
  if (logits.has_rest()) {
    total += __builtin_convertvector(base - logits.rest(base), wide_t<Real>);
  }
  double sum = 0.0;
  for (int lane = 0; lane < kStep; ++lane) {
    sum += total[lane];
  }
  return sum;
}

}  // namespace
}  // namespace rho_ext
