// Atomics on global and shared memory. They are relaxed, as on the device: only fences order
// memory.
#pragma once

#include <cstdint>
#include <type_traits>

#include "device/bits.h"
#include "engine/device_calls.h"

namespace emulator {

template <class T, class Update>
inline T read_modify_write(T* address, Update update) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
  if (reinterpret_cast<uintptr_t>(address) % sizeof(T) != 0) {
    fail("misaligned %zu-byte atomic at %p", sizeof(T), static_cast<void*>(address));
  }
  before_atomic(address);
  auto* bits = reinterpret_cast<Bits*>(address);
  Bits old = __atomic_load_n(bits, __ATOMIC_RELAXED);
  Bits updated;
  do {
    updated = static_cast<Bits>(to_bits<T>(update(from_bits<T>(old))));
  } while (
      !__atomic_compare_exchange_n(bits, &old, updated, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  after_atomic(address);
  return from_bits<T>(old);
}

}  // namespace emulator

template <class T>
inline T atomicAdd(T* address, std::type_identity_t<T> value) {
  static_assert(std::is_unsigned_v<T>);
  return emulator::read_modify_write(address, [value](T old) { return T(old + value); });
}
template <class T>
inline T atomicExch(T* address, std::type_identity_t<T> value) {
  return emulator::read_modify_write(address, [value](T) { return value; });
}
// Counts 0, 1, ..., limit and then 0 again.
inline unsigned atomicInc(unsigned* address, unsigned limit) {
  return emulator::read_modify_write(address,
                                     [limit](unsigned old) { return old >= limit ? 0 : old + 1; });
}
