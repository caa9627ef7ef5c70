// Asking the memory for what is read a little later.
#pragma once

#include <cstdint>

namespace rho_ext {

inline constexpr int64_t kCacheLine = 64;

// Not into the L1 cache: the core has room for few fetches on their way there, and waits where it
// is asked for more. Always inlined, because the row kernels share it (see cpu/rows.h).
[[gnu::always_inline]] inline void fetch_into_l2(const void* address) {
  constexpr int kIntoL2 = 2;
  __builtin_prefetch(address, 0, kIntoL2);
  // GCC drops calls of functions that do nothing but prefetch.
  asm volatile("");
}

}  // namespace rho_ext
