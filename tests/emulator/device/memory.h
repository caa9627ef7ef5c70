// Loads with cache hints, which check their alignment, and dynamic shared memory.
#pragma once

#include <cstdint>

#include "engine/device_calls.h"

// Return the dynamic shared memory of the block, aligned to at least 16 bytes. For nvcc the
// function is in csrc/cuda/intrinsics.cuh.
inline unsigned char* dynamic_shared() { return emulator::dynamic_shared_memory(); }

namespace emulator {

template <class T>
inline T load(const T* address) {
  if (reinterpret_cast<uintptr_t>(address) % alignof(T) != 0) {
    fail("misaligned load of %zu bytes at %p, which needs alignment %zu", sizeof(T),
         static_cast<const void*>(address), alignof(T));
  }
  return *address;
}

}  // namespace emulator

template <class T>
inline T __ldg(const T* address) {
  return emulator::load(address);
}
template <class T>
inline T __ldcg(const T* address) {
  return emulator::load(address);
}
template <class T>
inline T __ldcs(const T* address) {
  return emulator::load(address);
}
