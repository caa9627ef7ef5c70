// Warp collectives: shuffles of all lanes.
#pragma once

#include "device/bits.h"
#include "engine/device_calls.h"

inline void __syncwarp(unsigned mask = 0xffffffffu,
                       emulator::Where where = emulator::Where::current()) {
  emulator::sync_warp(mask, where);
}

// The source is a lane of the caller's part of the warp, of `width` lanes.
template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32,
                     emulator::Where where = emulator::Where::current()) {
  const int lane = (emulator::lane_of_caller() & -width) | (source & (width - 1));
  return emulator::from_bits<T>(emulator::shuffle(mask, emulator::to_bits(value), lane, where));
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int flipped,
                         emulator::Where where = emulator::Where::current()) {
  const int source = emulator::lane_of_caller() ^ flipped;
  return emulator::from_bits<T>(emulator::shuffle(mask, emulator::to_bits(value), source, where));
}
// The first lanes get their own values.
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta,
                        emulator::Where where = emulator::Where::current()) {
  const int lane = emulator::lane_of_caller();
  const int source = lane - static_cast<int>(delta) < 0 ? lane : lane - static_cast<int>(delta);
  return emulator::from_bits<T>(emulator::shuffle(mask, emulator::to_bits(value), source, where));
}
