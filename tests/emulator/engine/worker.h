// OS threads that run blocks. They are kept between launches: starting one costs more than a small
// launch.
#pragma once

#include <semaphore>

#include "engine/block.h"

namespace emulator {

struct Worker {
  std::binary_semaphore wake{0};
  // What to run once woken from idleness.
  Grid* grid = nullptr;
  long first_block = 0;
  Block block{*this};
};

// Runs a block, and then those that the grid gives, on a worker that is idle or new.
void start_worker(Grid& grid, long block);

// Called by a worker that has nothing left to run: it may be started again from now on.
void retire_worker(Worker& worker);

}  // namespace emulator
