// Warp collectives: shuffles, votes, matches and reductions.
#pragma once

#include "device/bits.h"
#include "engine/device_calls.h"

inline unsigned __activemask() { return emulator::lanes_alive(); }

inline void __syncwarp(unsigned mask = 0xffffffffu,
                       emulator::Where where = emulator::Where::current()) {
  emulator::meet(emulator::Collective::kSyncWarp, mask, 0, nullptr, where);
}

namespace emulator {

// The first and the last lane of a shuffle segment.
inline int segment_start(int width, Where where) {
  if (width < 1 || width > 32 || (width & (width - 1)) != 0) {
    fail("%s:%u: the width of a shuffle must be a power of two up to 32, got %d", where.file_name(),
         static_cast<unsigned>(where.line()), width);
  }
  return lane_of_caller() & ~(width - 1);
}

// A source outside the segment gives the caller its own value, as on the device.
template <class T>
inline T shuffle_within(unsigned mask, T value, int source, int first, int last, Where where) {
  const int lane = source < first || source > last ? lane_of_caller() : source;
  return from_bits<T>(shuffle(mask, to_bits(value), lane, where));
}

template <class T, class Combine>
inline T reduce(unsigned mask, T value, Combine combine, Where where) {
  uint64_t all[32];
  unsigned lanes = meet(Collective::kReduce, mask, to_bits(value), all, where);
  T result = from_bits<T>(all[__builtin_ctz(lanes)]);
  for (lanes &= lanes - 1; lanes != 0; lanes &= lanes - 1) {
    result = combine(result, from_bits<T>(all[__builtin_ctz(lanes)]));
  }
  return result;
}

}  // namespace emulator

template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32,
                     emulator::Where where = emulator::Where::current()) {
  const int first = emulator::segment_start(width, where);
  return emulator::shuffle_within(mask, value, first + (source & (width - 1)), first,
                                  first + width - 1, where);
}
// A lane above its segment cannot be read, one below can.
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int flipped, int width = 32,
                         emulator::Where where = emulator::Where::current()) {
  const int first = emulator::segment_start(width, where);
  return emulator::shuffle_within(mask, value, emulator::lane_of_caller() ^ flipped, 0,
                                  first + width - 1, where);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                          emulator::Where where = emulator::Where::current()) {
  const int first = emulator::segment_start(width, where);
  return emulator::shuffle_within(mask, value, emulator::lane_of_caller() + static_cast<int>(delta),
                                  first, first + width - 1, where);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                        emulator::Where where = emulator::Where::current()) {
  const int first = emulator::segment_start(width, where);
  return emulator::shuffle_within(mask, value, emulator::lane_of_caller() - static_cast<int>(delta),
                                  first, first + width - 1, where);
}

inline unsigned __ballot_sync(unsigned mask, int predicate,
                              emulator::Where where = emulator::Where::current()) {
  return emulator::ballot(mask, predicate != 0, where);
}
inline int __any_sync(unsigned mask, int predicate,
                      emulator::Where where = emulator::Where::current()) {
  return emulator::ballot(mask, predicate != 0, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate,
                      emulator::Where where = emulator::Where::current()) {
  return emulator::ballot(mask, predicate == 0, where) == 0;
}
template <class T>
inline unsigned __match_any_sync(unsigned mask, T value,
                                 emulator::Where where = emulator::Where::current()) {
  return emulator::match(mask, emulator::to_bits(value), where);
}

template <class T>
inline T __reduce_add_sync(unsigned mask, T value,
                           emulator::Where where = emulator::Where::current()) {
  static_assert(std::is_integral_v<T> && sizeof(T) == 4);
  // Unsigned, because sums wrap around on the device.
  const auto sum = [](unsigned a, unsigned b) { return a + b; };
  return static_cast<T>(emulator::reduce(mask, static_cast<unsigned>(value), sum, where));
}
template <class T>
inline T __reduce_max_sync(unsigned mask, T value,
                           emulator::Where where = emulator::Where::current()) {
  static_assert(std::is_integral_v<T> && sizeof(T) == 4);
  return emulator::reduce(mask, value, [](T a, T b) { return a < b ? b : a; }, where);
}
template <class T>
inline T __reduce_min_sync(unsigned mask, T value,
                           emulator::Where where = emulator::Where::current()) {
  static_assert(std::is_integral_v<T> && sizeof(T) == 4);
  return emulator::reduce(mask, value, [](T a, T b) { return b < a ? b : a; }, where);
}
