// Atomics and fences.
#include "engine/block.h"
#include "engine/grid.h"
#include "engine/sanitizers.h"

namespace emulator {
namespace {

// A thread that polls an atomic must let others run sometimes.
constexpr int kAtomicsInTurn = 1000;

}  // namespace

void fence() {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (under_tsan()) {
    Block& block = current_block();
    block.current()->fences.fence(block.fences);
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
    fiber.fences.before_atomic(block.fences, const_cast<void*>(address));
  }
}

void after_atomic(const void* address) {
  if (under_tsan()) {
    current_block().current()->fences.after_atomic(const_cast<void*>(address));
  }
}

}  // namespace emulator
