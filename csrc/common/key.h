// A key is one integer per row that sorts by score and then by row: ties are exact, and a
// comparison needs no second field.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

#include "common/host_device.h"

namespace rho_ext {

__extension__ typedef unsigned __int128 uint128_t;

template <class Real>
struct KeyTraits;

template <>
struct KeyTraits<float> {
  using Key = uint64_t;
  using Bits = uint32_t;
};

// A float64 score takes 64 bits, so its key needs 128.
template <>
struct KeyTraits<double> {
  using Key = uint128_t;
  using Bits = uint64_t;
};

template <class Real>
using key_t = typename KeyTraits<Real>::Key;
template <class Real>
using bits_t = typename KeyTraits<Real>::Bits;

// The key of a row that must not be selected: invalid, ignored or masked. It sorts below all
// others.
template <class Real>
inline constexpr key_t<Real> kExcluded = 0;

// Map a score to an integer of the same order. NaN and -inf give 0: such a row must not be
// selected.
template <class Real>
RHO_HOST_DEVICE bits_t<Real> ordered_bits(Real score) {
  using Bits = bits_t<Real>;
  constexpr int kWidth = std::numeric_limits<Bits>::digits;
  constexpr Bits kSign = Bits{1} << (kWidth - 1);
  constexpr Bits kInfinity = std::bit_cast<Bits>(std::numeric_limits<Real>::infinity());
  Bits bits = std::bit_cast<Bits>(score);
  // -0 and +0 are equal, so the row decides. Adding 0 would also do it, but would lose a denormal
  // if denormals are flushed to zero.
  bits = bits == kSign ? 0 : bits;
  const Bits ordered = bits ^ ((Bits{0} - (bits >> (kWidth - 1))) | kSign);
  // NaN of either sign and -inf lie at the two ends: one comparison finds them. No branch, because
  // the signs of scores are unpredictable.
  constexpr Bits kLeast = ~(kSign | kInfinity) + 1;
  constexpr Bits kMost = kSign | kInfinity;
  return ordered - kLeast <= kMost - kLeast ? ordered : 0;
}

// Invert ordered_bits, for a result other than 0.
template <class Real>
RHO_HOST_DEVICE Real score_of_bits(bits_t<Real> ordered) {
  using Bits = bits_t<Real>;
  Bits sign = Bits{1} << (std::numeric_limits<Bits>::digits - 1);
  return std::bit_cast<Real>((ordered & sign) != 0 ? static_cast<Bits>(ordered & ~sign)
                                                   : static_cast<Bits>(~ordered));
}

// Return the key: the score bits, then the complement of the row. The larger key is selected first.
template <class Real>
RHO_HOST_DEVICE key_t<Real> key_of(bits_t<Real> ordered, int64_t row) {
  using Bits = bits_t<Real>;
  constexpr int kWidth = std::numeric_limits<Bits>::digits;
  const auto key =
      (static_cast<key_t<Real>>(ordered) << kWidth) | static_cast<Bits>(~static_cast<Bits>(row));
  return ordered == 0 ? kExcluded<Real> : key;
}

template <class Real>
RHO_HOST_DEVICE int64_t key_row(key_t<Real> key) {
  using Bits = bits_t<Real>;
  return static_cast<int64_t>(static_cast<Bits>(~static_cast<Bits>(key)));
}

// Return the ordered bits of the score.
template <class Real>
RHO_HOST_DEVICE bits_t<Real> key_bits(key_t<Real> key) {
  return static_cast<bits_t<Real>>(key >> std::numeric_limits<bits_t<Real>>::digits);
}

template <class Real>
RHO_HOST_DEVICE Real key_score(key_t<Real> key) {
  return score_of_bits<Real>(key_bits<Real>(key));
}

}  // namespace rho_ext
