// Loads and stores with cache hints, which check their alignment, and dynamic shared memory.
#pragma once

#include <cstdint>
#include <type_traits>

#include "engine/device_calls.h"

// Return the dynamic shared memory of the block, aligned to at least 16 bytes. For nvcc the
// function is in csrc/cuda/intrinsics.cuh.
inline unsigned char* dynamic_shared() { return emulator::dynamic_shared_memory(); }

namespace emulator {

template <class T>
inline void check_alignment(const char* access, const T* address) {
  if (reinterpret_cast<uintptr_t>(address) % alignof(T) != 0) {
    fail("misaligned %s of %zu bytes at %p, which needs alignment %zu", access, sizeof(T),
         static_cast<const void*>(address), alignof(T));
  }
}

template <class T>
inline T load(const T* address) {
  check_alignment("load", address);
  return *address;
}

template <class T>
inline void store(T* address, T value) {
  check_alignment("store", address);
  *address = value;
}

}  // namespace emulator

template <class T>
inline T __ldg(const T* address) {
  return emulator::load(address);
}
template <class T>
inline T __ldca(const T* address) {
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
template <class T>
inline T __ldlu(const T* address) {
  return emulator::load(address);
}
template <class T>
inline void __stcg(T* address, std::type_identity_t<T> value) {
  emulator::store(address, value);
}
template <class T>
inline void __stcs(T* address, std::type_identity_t<T> value) {
  emulator::store(address, value);
}
template <class T>
inline void __stwb(T* address, std::type_identity_t<T> value) {
  emulator::store(address, value);
}
