#include "engine/fence_model.h"

#include "engine/block.h"
#include "engine/grid.h"
#include "engine/sanitizers.h"

namespace emulator {
namespace {

// A thread that polls an atomic must let others run at some time.
constexpr int kAtomicsInTurn = 1000;

void pass_on(void*& helper, void* from, void* to, void* tsan_fiber) {
  if (helper == nullptr) {
    helper = __tsan_create_fiber(0);
  }
  tsan_switch(helper);
  __tsan_acquire(from);
  __tsan_release(to);
  tsan_switch(tsan_fiber);
}

}  // namespace

void FenceModel::fence() {
  __tsan_release(&snapshot_);
  __tsan_acquire(&pending_);
  fenced_ = true;
}

void FenceModel::before_atomic(void* address, void* tsan_fiber) {
  if (fenced_) {
    pass_on(publisher_, &snapshot_, address, tsan_fiber);
  }
}

void FenceModel::after_atomic(void* address, void* tsan_fiber) {
  pass_on(reader_, address, &pending_, tsan_fiber);
}

void FenceModel::destroy() {
  for (void* helper : {publisher_, reader_}) {
    if (helper != nullptr) {
      __tsan_destroy_fiber(helper);
    }
  }
}

void fence() {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (under_tsan()) {
    current_block().current()->fences.fence();
  }
}

void before_atomic(const void* address) {
  Block& block = current_block();
  Fiber& fiber = *block.current();
  const int permille = block.grid().config().yield_permille;
  if (++fiber.atomics_in_turn > kAtomicsInTurn ||
      (permille > 0 && static_cast<int>(block.random().below(1000)) < permille)) {
    block.yield();
  }
  if (under_tsan()) {
    fiber.fences.before_atomic(const_cast<void*>(address), fiber.context.tsan_fiber);
  }
}

void after_atomic(const void* address) {
  if (under_tsan()) {
    Fiber& fiber = *current_block().current();
    fiber.fences.after_atomic(const_cast<void*>(address), fiber.context.tsan_fiber);
  }
}

}  // namespace emulator
