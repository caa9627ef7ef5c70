// Fences as TSan can see them. A fence takes a snapshot of what happened before it, a later atomic
// publishes the snapshot, and a fence after an atomic that read it takes it in. An atomic alone,
// which is relaxed, orders nothing. A barrier of the block hands on what its threads have fenced
// and read: any thread may then do the atomic, or the second fence, for all.
#pragma once

namespace emulator {

// Hands the order of one address on to another without taking it in.
class Relay {
 public:
  void pass(void* from, void* to);
  void retire();

 private:
  void* fiber_ = nullptr;
};

// Addresses that TSan knows an order by: what may be published, and what was read but not fenced.
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
  // Of all barriers so far, and of the one that threads are arriving at.
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
