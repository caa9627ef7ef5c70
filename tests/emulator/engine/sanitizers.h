// The interfaces of ASan and TSan, null in a build without them.
#pragma once

#include <cstddef>

extern "C" {
__attribute__((weak)) void* __tsan_create_fiber(unsigned flags);
__attribute__((weak)) void __tsan_destroy_fiber(void* fiber);
__attribute__((weak)) void __tsan_switch_to_fiber(void* fiber, unsigned flags);
__attribute__((weak)) void* __tsan_get_current_fiber();
__attribute__((weak)) void __tsan_acquire(void* address);
__attribute__((weak)) void __tsan_release(void* address);
__attribute__((weak)) void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom,
                                                          size_t bytes);
__attribute__((weak)) void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom,
                                                           size_t* bytes);
__attribute__((weak)) void __asan_poison_memory_region(const volatile void* address, size_t bytes);
__attribute__((weak)) void __asan_unpoison_memory_region(const volatile void* address,
                                                         size_t bytes);
}

namespace emulator {

inline bool under_tsan() { return __tsan_create_fiber != nullptr; }
inline bool under_asan() { return __asan_poison_memory_region != nullptr; }

// Memory operations before a release happen before those after an acquire of the same address.
inline void tsan_release(void* address) {
  if (under_tsan()) {
    __tsan_release(address);
  }
}
inline void tsan_acquire(void* address) {
  if (under_tsan()) {
    __tsan_acquire(address);
  }
}
// Switch fibers without ordering their memory operations.
inline void tsan_switch(void* fiber) {
  constexpr unsigned kNoSynchronisation = 1;
  __tsan_switch_to_fiber(fiber, kNoSynchronisation);
}

}  // namespace emulator
