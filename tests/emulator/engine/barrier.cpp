// Barriers of a block and of the grid, as one thread calls them.
#include <cstring>

#include "engine/block.h"
#include "engine/grid.h"
#include "engine/sanitizers.h"

namespace emulator {
namespace {

bool same_place(const Where& a, const Where& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         std::strcmp(a.file_name(), b.file_name()) == 0;
}

}  // namespace

void block_barrier(Where where) {
  Block& block = current_block();
  Barrier& barrier = block.barrier;
  if (barrier.arrived > 0 && !same_place(barrier.where, where)) {
    fail("%s:%u: threads of a block are at different barriers, others at %s:%u", where.file_name(),
         static_cast<unsigned>(where.line()), barrier.where.file_name(),
         static_cast<unsigned>(barrier.where.line()));
  }
  barrier.where = where;
  block.current()->where = where;
  const unsigned parity = barrier.generation & 1;
  if (under_tsan()) {
    tsan_release(&barrier.orders[parity]);
    block.current()->fences.arrive_at_barrier(block.fences);
  }
  if (++barrier.arrived == block.live()) {
    block.wake_barrier();
  } else {
    block.suspend(State::kAtBarrier);
  }
  tsan_acquire(&barrier.orders[parity]);
}

void grid_barrier(Where where) {
  Block& block = current_block();
  Grid& grid = block.grid();
  if (!grid.launch().cooperative) {
    fail("%s:%u: a grid sync in a launch without the cooperative attribute", where.file_name(),
         static_cast<unsigned>(where.line()));
  }
  block.current()->where = where;
  char* const order = grid.barrier_order(block.grid_barriers());
  tsan_release(order);
  block.suspend(State::kAtGridBarrier);
  tsan_acquire(order);
}

}  // namespace emulator
