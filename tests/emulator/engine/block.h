// A block. Its threads are fibers of one OS thread, which switch at collectives.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "device/vector_types.h"
#include "engine/context.h"
#include "engine/device_calls.h"
#include "engine/fence_model.h"
#include "engine/random.h"
#include "engine/shared_memory.h"

namespace emulator {

class Grid;
struct Worker;

// One call of a warp collective, from its first lane's arrival until its last lane has left.
struct Meeting {
  Collective collective;
  unsigned mask;
  unsigned arrived;
  int leaving;
  Where where;
  char* order;
  std::array<uint64_t, 32> bits;
};

struct Fiber;

struct Warp {
  std::array<Fiber*, 32> lanes;
  unsigned alive;
  // Each bit stands for one meeting. A lane is in at most one.
  unsigned in_use;
  unsigned open;
  std::array<Meeting, 32> meetings;
};

enum class State { kReady, kAtWarpCollective, kAtBarrier, kAtGridBarrier, kExited };

struct Fiber {
  Context context;
  uint3 index;
  unsigned rank;
  Warp* warp;
  State state;
  // Results of the last collective.
  Where where;
  int atomics_in_turn;
  ThreadFences fences;

  int lane() const { return static_cast<int>(rank % 32); }
};

// Two orders, because fast threads may be at the next barrier while slow ones
// have not left the last.
struct Barrier {
  unsigned generation = 0;
  unsigned arrived = 0;
  Where where;
  std::array<char, 2> orders{};
};

class Block {
 public:
  explicit Block(Worker& worker) : worker_(worker) {}

  // Runs the block of this number on the calling OS thread.
  void run(Grid& grid, long id);

  Grid& grid() const { return *grid_; }
  // The fiber that runs, or null in the scheduler.
  Fiber* current() const { return current_; }
  unsigned live() const { return live_; }
  unsigned grid_barriers() const { return grid_barriers_; }
  Random& random() { return random_; }
  unsigned char* dynamic_shared() const { return dynamic_shared_.data(); }
  Barrier barrier;
  BlockFences fences;

  // Suspend the running fiber. The first returns after a wake-up, the second after other fibers
  // have run.
  void suspend(State state);
  void yield();
  void wake(Fiber& fiber);
  void wake_barrier();
  void leave_warp(Fiber& fiber);
  // Return an address that TSan has not seen yet.
  char* fresh_order();

 private:
  static void fiber_main();
  void prepare(const dim3& size);
  void prepare_fiber(unsigned rank, const dim3& size);
  void schedule();
  void begin_round();
  Fiber* next_in_round();
  void enter(Fiber& fiber);
  void sync_grid();
  void let_blocks_run();
  void finish();
  std::string describe_deadlock() const;

  Worker& worker_;
  Grid* grid_ = nullptr;
  long id_ = 0;
  Fiber* current_ = nullptr;
  Context scheduler_;
  Stacks stacks_;
  DynamicShared dynamic_shared_;
  std::vector<Fiber> fibers_;
  std::vector<Warp> warps_;
  // The fibers of this round, and those that became ready since.
  std::vector<Fiber*> round_;
  size_t next_ = 0;
  std::vector<Fiber*> ready_;
  unsigned live_ = 0;
  unsigned at_grid_barrier_ = 0;
  unsigned grid_barriers_ = 0;
  bool yielding_ = false;
  long yields_ = 0;
  Random random_;
  char start_order_ = 0;
  char* orders_ = nullptr;
  size_t orders_used_ = 0;
};

// The block of the calling OS thread.
Block& current_block();

}  // namespace emulator
