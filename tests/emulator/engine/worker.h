// OS threads that run blocks. Later launches reuse them: starting one costs more than a small
// launch.
#pragma once

#include <semaphore>

#include "engine/block.h"

namespace emulator {

struct Worker {
  std::binary_semaphore wake{0};
  // The block to run after the next wake-up.
  Grid* grid = nullptr;
  long first_block = 0;
  Block block{*this};
};

// Run a block on an idle or new worker, and then further blocks of the grid.
void start_worker(Grid& grid, long block);

// Called by a worker without a block: from now on it may be started again.
void retire_worker(Worker& worker);

}  // namespace emulator
