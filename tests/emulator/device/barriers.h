// Barriers of a block and fences.
#pragma once

#include "engine/device_calls.h"

inline void __syncthreads(emulator::Where where = emulator::Where::current()) {
  emulator::block_barrier(where);
}
inline int __syncthreads_count(int predicate, emulator::Where where = emulator::Where::current()) {
  return emulator::block_vote(emulator::Vote::kCount, predicate != 0, where);
}
inline int __syncthreads_and(int predicate, emulator::Where where = emulator::Where::current()) {
  return emulator::block_vote(emulator::Vote::kAnd, predicate != 0, where);
}
inline int __syncthreads_or(int predicate, emulator::Where where = emulator::Where::current()) {
  return emulator::block_vote(emulator::Vote::kOr, predicate != 0, where);
}

// All three act as the widest one, because TSan has only one scope.
inline void __threadfence() { emulator::fence(); }
inline void __threadfence_block() { emulator::fence(); }
inline void __threadfence_system() { emulator::fence(); }

inline void __nanosleep(unsigned) { emulator::let_others_run(); }
[[noreturn]] inline void __trap() { emulator::fail("__trap() was called"); }
