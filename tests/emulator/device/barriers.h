// Barriers of a block and fences.
#pragma once

#include "engine/device_calls.h"

inline void __syncthreads(emulator::Where where = emulator::Where::current()) {
  emulator::block_barrier(where);
}

inline void __threadfence() { emulator::fence(); }

inline void __nanosleep(unsigned) { emulator::let_others_run(); }
[[noreturn]] inline void __trap() { emulator::fail("__trap() was called"); }
