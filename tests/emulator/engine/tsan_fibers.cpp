#include "engine/tsan_fibers.h"

#include <array>
#include <atomic>
#include <cstddef>

#include "engine/sanitizers.h"

namespace emulator {
namespace {

// TSan has room for about 8100 threads and fibers. Beyond this many a fiber is destroyed as soon as
// its thread has finished, and TSan may forget what it did.
constexpr size_t kMostKept = 6000;

struct Fibers {
  std::atomic_flag locked;
  std::array<void*, kMostKept> all;
  // First those that are free, then those retired in this launch.
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

// A fiber starts with what its creator knows, which must be nothing of this launch.
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
      // The last retired one fills the gap.
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
