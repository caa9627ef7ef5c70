#include "engine/tsan_fibers.h"

#include <array>
#include <atomic>
#include <cstddef>

#include "engine/sanitizers.h"

namespace emulator {
namespace {

// TSan has room for about 8100 threads and fibers. Beyond this number a fiber is destroyed when its
// thread ends, and TSan may forget its memory operations.
constexpr size_t kMostKept = 6000;

struct Fibers {
  std::atomic_flag locked;
  std::array<void*, kMostKept> all;
  // First the free fibers, then those retired in this launch.
  size_t free = 0;
  size_t kept = 0;
};
Fibers fibers;

class Lock {
 public:
  Lock() {
    while (fibers.locked.test_and_set(std::memory_order_acquire)) {
    }
  }
  ~Lock() { fibers.locked.clear(std::memory_order_release); }
};

// A fiber inherits its creator's order, which must not include this launch.
void* create_fiber() {
  static void* const ignorant = __tsan_create_fiber(0);
  void* running = __tsan_get_current_fiber();
  tsan_switch(ignorant);
  void* fiber = __tsan_create_fiber(0);
  tsan_switch(running);
  return fiber;
}

}  // namespace

void* take_tsan_fiber() {
  {
    const Lock lock;
    if (fibers.free > 0) {
      void* fiber = fibers.all[--fibers.free];
      // Move the last retired one into the gap.
      fibers.all[fibers.free] = fibers.all[--fibers.kept];
      return fiber;
    }
  }
  return create_fiber();
}

void retire_tsan_fiber(void* fiber) {
  {
    const Lock lock;
    if (fibers.kept < kMostKept) {
      fibers.all[fibers.kept++] = fiber;
      return;
    }
  }
  __tsan_destroy_fiber(fiber);
}

void recycle_tsan_fibers() {
  const Lock lock;
  fibers.free = fibers.kept;
}

}  // namespace emulator
