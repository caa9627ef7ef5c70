// Model fences for TSan. A fence takes a snapshot of earlier memory operations. A later atomic
// publishes the snapshot, and a fence after an atomic that read it acquires it. An atomic alone is
// relaxed and orders nothing. A barrier of the block passes on what its threads have fenced and
// read, so that any thread may do the atomic, or the second fence, for all.
#pragma once

namespace emulator {

// Pass the order of one address on to another without acquiring it.
class Relay {
 public:
  void pass(void* from, void* to);
  void retire();

 private:
  void* fiber_ = nullptr;
};

// Addresses of orders for TSan: of what may be published, and of what was read but not fenced.
struct Orders {
  char snapshot = 0;
  char pending = 0;
  bool has_snapshot = false;
  bool has_pending = false;
};

class BlockFences {
 public:
  void complete_barrier();
  void retire();

 private:
  friend class ThreadFences;
  // Orders of all barriers so far, and of the current one.
  Orders passed_;
  Orders arriving_;
  Relay publisher_;
  Relay reader_;
};

class ThreadFences {
 public:
  void fence(BlockFences& block);
  void before_atomic(BlockFences& block, void* address);
  void after_atomic(void* address);
  void arrive_at_barrier(BlockFences& block);
  void retire();

 private:
  Orders own_;
  bool new_snapshot_ = false;
  bool new_pending_ = false;
  Relay publisher_;
  Relay reader_;
};

}  // namespace emulator
