#include "engine/worker.h"

#include <pthread.h>

#include <mutex>
#include <thread>
#include <vector>

#include "engine/grid.h"
#include "engine/sanitizers.h"

namespace emulator {
namespace {

// Never freed, because its threads live as long as the process.
class Pool {
 public:
  static Pool& instance() {
    static Pool& pool = *new Pool;
    return pool;
  }

  Worker* take() {
    std::lock_guard lock(mutex_);
    if (idle_.empty()) {
      return nullptr;
    }
    Worker* worker = idle_.back();
    idle_.pop_back();
    return worker;
  }
  void put(Worker& worker) {
    std::lock_guard lock(mutex_);
    idle_.push_back(&worker);
  }

 private:
  Pool() {
    // A forked process does not have these threads.
    pthread_atfork(nullptr, nullptr, [] { instance().idle_.clear(); });
  }

  std::mutex mutex_;
  std::vector<Worker*> idle_;
};

void serve(Worker& worker) {
  for (;;) {
    worker.wake.acquire();
    Grid& grid = *worker.grid;
    for (long block = worker.first_block; block != Grid::kNone; block = grid.next_block(worker)) {
      worker.block.run(grid, block);
    }
  }
}

// On a thread with memory of its own: TSan would take two blocks that use the same shared memory or
// the same stacks one after the other for a race.
void run_once(Grid& grid, long block) {
  Worker worker;
  worker.block.run(grid, block);
  const long next = grid.next_block(worker);
  if (next != Grid::kNone) {
    start_worker(grid, next);
  }
}

}  // namespace

void start_worker(Grid& grid, long block) {
  if (under_tsan()) {
    std::thread(run_once, std::ref(grid), block).detach();
    return;
  }
  Worker* worker = Pool::instance().take();
  if (worker == nullptr) {
    worker = new Worker;
    std::thread(serve, std::ref(*worker)).detach();
  }
  worker->grid = &grid;
  worker->first_block = block;
  worker->wake.release();
}

void retire_worker(Worker& worker) {
  if (!under_tsan()) {
    Pool::instance().put(worker);
  }
}

}  // namespace emulator
