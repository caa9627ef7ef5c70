// Reductions over neighbouring logits of a row. Included only by rows.inc.
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

// As many logits as a vector has lanes, as the kernels compute with them.
inline FloatVector widen(const Float16* from) { return widen_float16(load<HalfVector>(from)); }
inline FloatVector widen(const BFloat16* from) { return widen_bfloat16(load<HalfVector>(from)); }
inline FloatVector widen(const float* from) { return load<FloatVector>(from); }
inline DoubleVector widen(const double* from) { return load<DoubleVector>(from); }

// One logit.
inline double widen_one(const double* from) { return *from; }
inline double widen_one(const float* from) { return static_cast<double>(*from); }
template <class T>
inline double widen_one(const T* from) {
  HalfVector bits{from->bits};
  return static_cast<double>(widen(reinterpret_cast<const T*>(&bits))[0]);
}

// Two vectors of neighbouring logits, in whatever order costs least.
template <class T>
struct TwoVectors {
  vector_t<compute_t<T>> first;
  vector_t<compute_t<T>> second;
};
template <class T>
inline TwoVectors<T> widen_two(const T* from) {
  return {widen(from), widen(from + kLanes<compute_t<T>>)};
}
inline TwoVectors<BFloat16> widen_two(const BFloat16* from) {
  // The upper half of a float32, each: the odd ones where they are, the even ones moved there.
  const auto both = load<UintVector>(from);
  return {(FloatVector)(both << 16), (FloatVector)(both & 0xffff0000u)};
}

// Vectors that a loop reduces side by side, or the latency of one step after the other bounds it.
constexpr int kChains = 4;

// Logits of a row that are summed at a time. They stay in the L1 cache, and a lane of a chain takes
// 64 of them: of more, the rounding would show.
template <class Real>
constexpr int64_t kBlock = 64 * kChains * kLanes<Real>;

// Has the memory fetch what is read a little later, the next rows or the next blocks of this one,
// while the core computes: its own prefetcher stops at the end of every 4 KiB page.
inline void fetch_ahead(const void* values) {
  constexpr int kAhead = 8192;
  fetch_into_l2(static_cast<const char*>(values) + kAhead);
}
template <class T>
inline void fetch_ahead(const T* values, int64_t count) {
  constexpr int64_t kPerLine = kCacheLine / static_cast<int64_t>(sizeof(T));
#pragma GCC unroll 2
  for (int64_t at = 0; at < count; at += kPerLine) {
    fetch_ahead(values + at);
  }
}

// Neighbouring logits of a row, without one of them if kReduction is kOthers. Those that do not
// fill a vector are read in a last vector that ends with them: its first lanes hold what lies
// before in memory, and do not count.
template <class T, Reduction kReduction>
struct Logits {
  using Real = compute_t<T>;
  using V = vector_t<Real>;
  static constexpr int kStep = kLanes<Real>;

  const T* values;
  int64_t count;
  int64_t label;  // of these values; negative: not among them

  bool has_rest() const { return count % kStep != 0; }

  V operator[](int64_t i) const {
    const V v = widen(values + i);
    if constexpr (kReduction == kOthers) {
      return lane_numbers<Real>() == static_cast<int>(label - i) ? V{} + kLowest<Real> : v;
    }
    return v;
  }
  lanes_t<Real> uncounted() const {
    return lane_numbers<Real>() < static_cast<int>(kStep - count % kStep);
  }
  // The last vector, with `filler` in the lanes that do not count.
  V rest(Real filler) const { return uncounted() ? V{} + filler : (*this)[count - kStep]; }

  // The largest of each lane.
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

// While every logit was -inf, differences from -inf would be NaN; from 0 they stay -inf.
template <class V>
inline V base_of(V largest) {
  return largest == -__builtin_inff() ? V{} : largest;
}

// The sums of exp(t) and of what else the method needs, t = x - base, of each lane.
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
    if constexpr (kReduction == kOthers) {
      moment = multiply_add(e, e, moment);
    } else if constexpr (kReduction == kEntropySum) {
      // Nothing where exp is nothing: for t = -inf the product would be NaN.
      moment -= t < V{} + static_cast<Real>(kExpFloor) ? V{} : e * t;
    }
  }
  LaneSums operator+(const LaneSums& other) const {
    return {sum + other.sum, moment + other.moment};
  }
};

// The loss alone, without smoothing, may be summed relative to any logit that is not far below the
// largest. The label's is at hand before anything is read, so no maximum has to be found first: the
// logits are read and widened once, and what a fused multiply-add makes of each,
//   x log2(e) - offset,  offset = label's logit * log2(e), rounded,
// goes into 2^u as it is.
template <Reduction kReduction, class Real>
inline bool label_is_base(const RowBlock& rows) {
  return kReduction == kLogSumExp && std::is_same_v<Real, float> && rows.smoothing == 0;
}

// The sum relative to the label's logit is good up to here: that of a logit 64 above it. Such a
// loss has few digits behind the point, and exp and the sum keep as many. Rows with a larger sum,
// or none, for a NaN or an infinity, are summed relative to their maximum.
constexpr float kLargestSum = 0x1p92f;

#if defined(__FMA__) || defined(__aarch64__)
template <class V>
inline V offset_of(V logit) {
  return logit * kLog2E;
}
inline FloatVector minus_offset(FloatVector x, FloatVector offset) {
  return multiply_subtract(x, FloatVector{} + kLog2E, offset);
}
// Whether the offset is rounded by little enough for `true_sum`.
inline auto is_exact_enough(auto offset) { return offset * offset < 0x1p30f; }
// The inverse of what rounding the offset has multiplied all powers by.
template <class Wide>
inline Wide rounding_of(Wide logit, Wide offset) {
  constexpr double kLn2 = 0.69314718055994530942;
  const Wide t = (logit * static_cast<double>(kLog2E) - offset) * kLn2;
  return t * t * 0.5 - t + 1.0;
}
#else
// Without fused multiply-add the product would be rounded.
template <class V>
inline V offset_of(V logit) {
  return logit;
}
inline FloatVector minus_offset(FloatVector x, FloatVector offset) { return (x - offset) * kLog2E; }
inline auto is_exact_enough(auto offset) { return offset == offset; }
template <class Wide>
inline Wide rounding_of(Wide, Wide) {
  return Wide{} + 1.0;
}
#endif
[[gnu::always_inline]] inline Power power_above(FloatVector x, FloatVector offset) {
  return exp2_lanes(tamed(minus_offset(x, offset)));
}

// The sum of exp(x - label's logit) from that of the powers. The label's own is 1, exactly, so that
// the loss of a point that is learnt keeps its digits.
template <class Wide>
inline Wide true_sum(Wide powers, Wide power_of_label, Wide logit, Wide offset) {
  return multiply_add(powers - power_of_label, rounding_of(logit, offset), Wide{} + 1.0);
}

// The sums of 2^(x log2(e) - offset) of each lane.
template <class T>
inline FloatVector sum_above(const Logits<T, kLogSumExp>& logits, float offset) {
  constexpr int kStep = kLanes<float>;
  auto power = [&](FloatVector x) { return power_above(x, FloatVector{} + offset); };
  FloatVector total{};
  int64_t i = 0;
  if (logits.count >= kChains * kStep) {
    // Several chains, for accuracy too: a sum of fewer terms is rounded less often.
    FloatVector chains[kChains] = {};
    for (; i + kChains * kStep <= logits.count; i += kChains * kStep) {
#pragma GCC unroll 2
      for (int chain = 0; chain < kChains; chain += 2) {
        const T* x = logits.values + i + chain * kStep;
        fetch_ahead(x, 2 * kStep);
        const TwoVectors<T> two = widen_two(x);
        chains[chain] = power(two.first).add_to(chains[chain]);
        chains[chain + 1] = power(two.second).add_to(chains[chain + 1]);
      }
    }
    total = (chains[0] + chains[1]) + (chains[2] + chains[3]);
  }
  for (; i + kStep <= logits.count; i += kStep) {
    fetch_ahead(logits.values + i);
    total = power(logits[i]).add_to(total);
  }
  if (logits.has_rest()) {
    fetch_ahead(logits.values + i);
    const FloatVector last = power(logits[logits.count - kStep]).value();
    total += logits.uncounted() ? FloatVector{} : last;
  }
  return total;
}

// What as many rows as a vector has lanes leave behind.
template <class Real>
inline void store_wide(vector_t<Real> v, double* to) {
  store(to, __builtin_convertvector(v, wide_t<Real>));
}
template <Reduction kReduction, class Real>
inline void store_stats(vector_t<Real> largest, const LaneSums<kReduction, Real>& total,
                        int64_t first, BlockStats& stats) {
  // Where every logit is -inf the sums count for nothing; a NaN beside those must stay.
  auto settled = [&](auto sum) { return largest == -__builtin_inff() ? sum * 0 : sum; };
  store_wide<Real>(largest, stats.max + first);
  store_wide<Real>(settled(total.sum), stats.sum + first);
  if constexpr (kReduction != kLogSumExp) {
    store_wide<Real>(settled(total.moment), stats.moment + first);
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
    fetch_ahead(logits.values + at);
    const V t = logits[at] - base;
    sums.add(t, exp_lanes(t));
  };
  if (logits.count >= kChains * kStep) {
    // Several chains, for accuracy too: a sum of fewer terms is rounded less often.
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
    fetch_ahead(logits.values + i);
    const V t = logits.rest(base) - base;
    total.add_value(t, logits.uncounted() ? V{} : exp_lanes(t).value());
  }
  return total;
}

// Label smoothing: the sum of (base - x), where `logits` leaves no label out. In double, because
// one logit far below the others must not take their digits.
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
