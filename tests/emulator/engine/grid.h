// A launch: the blocks in flight, the block that runs, and the first failure.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <mutex>
#include <semaphore>
#include <string>
#include <vector>

#include "device/vector_types.h"
#include "engine/random.h"
#include "engine/shared_memory.h"

namespace emulator {

struct Worker;

enum class Order { kForward, kReverse, kRandom };

struct Config {
  unsigned long long seed = 0;
  Order order = Order::kForward;
  int resident = 4;
  bool parallel = false;
  int yield_permille = 0;
};

struct Launch {
  dim3 grid;
  dim3 block;
  size_t dynamic_shared_bytes = 0;
  bool cooperative = false;
  void (*call)(const void*) = nullptr;
  const void* argument = nullptr;
  StaticShared static_shared;

  long blocks() const { return static_cast<long>(grid.x) * grid.y * grid.z; }
  unsigned threads() const { return block.x * block.y * block.z; }
};

// Normally one block runs at a time, until it ends, waits for the grid or yields. Then another
// block runs: a new one on a free worker, or one that waits on its own worker. In parallel mode all
// blocks in flight run.
class Grid {
 public:
  // Return the message of the failure, or an empty string. One launch at a time.
  std::string run(const Launch& launch, const Config& config);

  const Launch& launch() const { return launch_; }
  const Config& config() const { return config_; }
  bool failed() const { return failed_.load(std::memory_order_relaxed); }
  char* barrier_order(unsigned barriers) { return &barrier_orders_[barriers & 1]; }
  char* end_order() { return &end_order_; }

  // The first failure counts. All blocks stop at their next collective.
  void fail(const std::string& message);
  // Let other blocks run, first those that have yielded least.
  void yield(Worker& worker, long block, long yields);
  void wait_for_grid(Worker& worker, long block);
  // Record that this worker has finished its block. Return its next block, or kNone.
  long next_block(Worker& worker);
  static constexpr long kNone = -1;

 private:
  // A block in flight that could run. Without a worker it has not started.
  struct Turn {
    long block;
    Worker* worker;
    long yields;
    double rank;
  };
  void admit();
  void queue(long block, Worker* worker, long yields);
  bool take_turn(Turn& turn);
  void give_turn(const Turn& turn);
  void wait_for_turn(Worker& worker, std::unique_lock<std::mutex>& lock);
  void release_waiting();
  void fail_locked(const std::string& message);

  Launch launch_;
  Config config_;
  Random random_;
  std::mutex mutex_;
  std::vector<Turn> turns_;
  std::vector<Turn> waiting_for_grid_;
  long admitted_ = 0;
  long started_ = 0;
  long finished_ = 0;
  std::atomic<bool> failed_{false};
  std::string message_;
  // Addresses of orders for TSan.
  std::array<char, 2> barrier_orders_{};
  char end_order_ = 0;
  std::binary_semaphore done_{0};
};

}  // namespace emulator
