#include "engine/fence_model.h"

#include "engine/sanitizers.h"
#include "engine/tsan_fibers.h"

namespace emulator {

void Relay::pass(void* from, void* to) {
  if (fiber_ == nullptr) {
    fiber_ = take_tsan_fiber();
  }
  void* running = __tsan_get_current_fiber();
  tsan_switch(fiber_);
  __tsan_acquire(from);
  __tsan_release(to);
  tsan_switch(running);
}

void Relay::retire() {
  if (fiber_ != nullptr) {
    retire_tsan_fiber(fiber_);
  }
}

void BlockFences::complete_barrier() {
  if (arriving_.has_snapshot) {
    publisher_.pass(&arriving_.snapshot, &passed_.snapshot);
    passed_.has_snapshot = true;
    arriving_.has_snapshot = false;
  }
  if (arriving_.has_pending) {
    reader_.pass(&arriving_.pending, &passed_.pending);
    passed_.has_pending = true;
    arriving_.has_pending = false;
  }
}

void BlockFences::retire() {
  publisher_.retire();
  reader_.retire();
}

void ThreadFences::fence(BlockFences& block) {
  // First, because a fence also publishes what it acquires.
  if (own_.has_pending) {
    __tsan_acquire(&own_.pending);
  }
  if (block.passed_.has_pending) {
    __tsan_acquire(&block.passed_.pending);
  }
  __tsan_release(&own_.snapshot);
  own_.has_snapshot = true;
  new_snapshot_ = true;
}

void ThreadFences::before_atomic(BlockFences& block, void* address) {
  if (own_.has_snapshot) {
    publisher_.pass(&own_.snapshot, address);
  }
  if (block.passed_.has_snapshot) {
    publisher_.pass(&block.passed_.snapshot, address);
  }
}

void ThreadFences::after_atomic(void* address) {
  reader_.pass(address, &own_.pending);
  own_.has_pending = true;
  new_pending_ = true;
}

void ThreadFences::arrive_at_barrier(BlockFences& block) {
  if (new_snapshot_) {
    publisher_.pass(&own_.snapshot, &block.arriving_.snapshot);
    block.arriving_.has_snapshot = true;
    new_snapshot_ = false;
  }
  if (new_pending_) {
    reader_.pass(&own_.pending, &block.arriving_.pending);
    block.arriving_.has_pending = true;
    new_pending_ = false;
  }
}

void ThreadFences::retire() {
  publisher_.retire();
  reader_.retire();
}

}  // namespace emulator
