#include "engine/grid.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "engine/sanitizers.h"
#include "engine/tsan_fibers.h"
#include "engine/worker.h"

namespace emulator {
namespace {

constexpr const char* kPartialGridSync =
    "some blocks have finished while others wait at a grid sync";

}  // namespace

std::string Grid::run(const Launch& launch, const Config& config) {
  launch_ = launch;
  config_ = config;
  random_ = Random(config.seed);
  admitted_ = started_ = finished_ = 0;
  failed_ = false;
  message_.clear();
  {
    std::lock_guard lock(mutex_);
    const long resident = std::min<long>(launch.blocks(), config.resident);
    while (admitted_ < resident) {
      admit();
    }
    Turn turn;
    do {
      take_turn(turn);
      give_turn(turn);
    } while (config.parallel && !turns_.empty());
  }
  done_.acquire();
  // The mutex tells TSan what the semaphore does not: the workers are done.
  std::lock_guard lock(mutex_);
  recycle_tsan_fibers();
  tsan_acquire(&end_order_);
  return message_;
}

void Grid::admit() {
  if (admitted_ < launch_.blocks() && !failed()) {
    queue(admitted_++, nullptr, 0);
  }
}

void Grid::queue(long block, Worker* worker, long yields) {
  double rank = static_cast<double>(block);
  if (config_.order == Order::kReverse) {
    rank = -rank;
  } else if (config_.order == Order::kRandom) {
    rank = static_cast<double>(random_.next());
  }
  turns_.push_back({block, worker, yields, rank});
}

bool Grid::take_turn(Turn& turn) {
  const auto best =
      std::min_element(turns_.begin(), turns_.end(), [](const Turn& a, const Turn& b) {
        return std::pair(a.yields, a.rank) < std::pair(b.yields, b.rank);
      });
  if (best == turns_.end()) {
    return false;
  }
  turn = *best;
  turns_.erase(best);
  return true;
}

void Grid::give_turn(const Turn& turn) {
  if (turn.worker != nullptr) {
    turn.worker->wake.release();
  } else {
    ++started_;
    start_worker(*this, turn.block);
  }
}

void Grid::wait_for_turn(Worker& worker, std::unique_lock<std::mutex>& lock) {
  Turn turn;
  take_turn(turn);
  if (turn.worker != &worker) {
    give_turn(turn);
    lock.unlock();
    worker.wake.acquire();
  }
}

void Grid::yield(Worker& worker, long block, long yields) {
  if (config_.parallel) {
    std::this_thread::yield();
    return;
  }
  std::unique_lock lock(mutex_);
  queue(block, &worker, yields);
  wait_for_turn(worker, lock);
}

void Grid::wait_for_grid(Worker& worker, long block) {
  std::unique_lock lock(mutex_);
  waiting_for_grid_.push_back({block, &worker, 0, 0});
  if (failed() || static_cast<long>(waiting_for_grid_.size()) == launch_.blocks()) {
    release_waiting();
  } else if (finished_ > 0) {
    fail_locked(kPartialGridSync);
  }
  if (config_.parallel) {
    lock.unlock();
    worker.wake.acquire();
  } else {
    wait_for_turn(worker, lock);
  }
}

void Grid::release_waiting() {
  for (const Turn& turn : waiting_for_grid_) {
    if (config_.parallel) {
      turn.worker->wake.release();
    } else {
      queue(turn.block, turn.worker, 0);
    }
  }
  waiting_for_grid_.clear();
}

long Grid::next_block(Worker& worker) {
  std::lock_guard lock(mutex_);
  ++finished_;
  if (!waiting_for_grid_.empty()) {
    fail_locked(kPartialGridSync);
  }
  admit();
  Turn turn;
  const bool found = take_turn(turn);
  if (found && turn.worker == nullptr) {
    ++started_;
    return turn.block;
  }
  // From here on the worker may already be started again.
  retire_worker(worker);
  if (found) {
    give_turn(turn);
  } else if (started_ == finished_) {
    done_.release();
  }
  return kNone;
}

void Grid::fail(const std::string& message) {
  std::lock_guard lock(mutex_);
  fail_locked(message);
}

void Grid::fail_locked(const std::string& message) {
  if (!failed()) {
    message_ = message;
    failed_ = true;
  }
  std::erase_if(turns_, [](const Turn& turn) { return turn.worker == nullptr; });
  release_waiting();
}

}  // namespace emulator
