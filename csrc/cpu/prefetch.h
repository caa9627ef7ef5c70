// Prefetching of memory.
#pragma once

#include <cstdint>

namespace rho_ext {

inline constexpr int64_t kCacheLine = 64;

// Prefetch into L2, not L1: a core has few L1 fill buffers and stalls when they are in use. Always
// inlined, because the row kernels share it (see cpu/rows.h).
[[gnu::always_inline]] inline void prefetch_to_l2(const void* address) {
  constexpr int kIntoL2 = 2;
  __builtin_prefetch(address, 0, kIntoL2);
  // Without it GCC drops calls of functions that only prefetch.
  asm volatile("");
}

}  // namespace rho_ext
