#include "engine/block.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <utility>

#include "engine/grid.h"
#include "engine/pages.h"
#include "engine/sanitizers.h"
#include "engine/tsan_fibers.h"

namespace emulator {
namespace {

thread_local constinit Block* block_of_thread = nullptr;

// Fibers must not allocate or copy memory with library functions, because TSan watches those even
// in this file. The orders of __syncwarp use addresses of pages that are never touched.
constexpr size_t kOrdersBytes = size_t{4} << 20;
constexpr size_t kOrderBytes = 8;

constexpr long kMostYields = 200'000;

uint3 unflatten(unsigned rank, const dim3& size) {
  return {rank % size.x, rank / size.x % size.y, rank / size.x / size.y};
}

}  // namespace

Block& current_block() { return *block_of_thread; }

void Block::run(Grid& grid, long id) {
  grid_ = &grid;
  id_ = id;
  const Launch& launch = grid.launch();
  fill_static_shared(launch.static_shared);
  dynamic_shared_.open(launch.dynamic_shared_bytes);
  block_of_thread = this;
  blockIdx = unflatten(static_cast<unsigned>(id), launch.grid);
  blockDim = launch.block;
  gridDim = launch.grid;
  prepare(launch.block);
  tsan_release(&start_order_);
  schedule();
  finish();
}

void Block::prepare(const dim3& size) {
  const unsigned threads = size.x * size.y * size.z;
  barrier = {};
  fences = {};
  random_ = Random(grid_->config().seed * 1'000'003 + static_cast<uint64_t>(id_));
  live_ = threads;
  at_grid_barrier_ = grid_barriers_ = 0;
  yielding_ = false;
  yields_ = 0;
  adopt_thread(scheduler_);
  stacks_.reserve(threads);
  fibers_.resize(threads);
  warps_.resize((threads + 31) / 32);
  for (Warp& warp : warps_) {
    warp.alive = warp.in_use = warp.open = 0;
  }
  round_.clear();
  round_.reserve(threads);
  next_ = 0;
  ready_.clear();
  ready_.reserve(threads);
  for (unsigned rank = 0; rank < threads; ++rank) {
    prepare_fiber(rank, size);
  }
  if (under_tsan()) {
    orders_ = static_cast<char*>(map_pages(kOrdersBytes));
    orders_used_ = 0;
  }
}

void Block::prepare_fiber(unsigned rank, const dim3& size) {
  Fiber& fiber = fibers_[rank];
  fiber.index = unflatten(rank, size);
  fiber.rank = rank;
  fiber.warp = &warps_[rank / 32];
  fiber.warp->alive |= 1u << fiber.lane();
  fiber.warp->lanes[fiber.lane()] = &fiber;
  fiber.where = {};
  fiber.fences = {};
  // Stack tops a power of two apart would compete for the same cache lines.
  constexpr size_t kColours = 16;
  constexpr size_t kColourBytes = 256;
  prepare_context(fiber.context, stacks_.bottom(rank),
                  Stacks::kBytes - rank % kColours * kColourBytes, fiber_main);
  wake(fiber);
}

void Block::fiber_main() {
  begin_context();
  Block& block = current_block();
  Fiber& fiber = *block.current();
  const Launch& launch = block.grid().launch();
  tsan_acquire(&block.start_order_);
  launch.call(launch.argument);
  tsan_release(block.grid().end_order());
  --block.live_;
  block.leave_warp(fiber);
  // A barrier waits for the threads that have not exited.
  if (block.barrier.arrived > 0 && block.barrier.arrived == block.live_) {
    block.wake_barrier();
  }
  block.suspend(State::kExited);
  __builtin_unreachable();
}

void Block::schedule() {
  while (live_ > 0 && !grid_->failed()) {
    if (!ready_.empty()) {
      begin_round();
    } else if (at_grid_barrier_ == live_) {
      sync_grid();
    } else {
      grid_->fail(describe_deadlock());
    }
    while (Fiber* fiber = next_in_round()) {
      enter(*fiber);
      switch_context(scheduler_, fiber->context);
      current_ = nullptr;
      if (yielding_) {
        let_blocks_run();
      }
    }
  }
}

void Block::begin_round() {
  std::swap(round_, ready_);
  ready_.clear();
  next_ = 0;
  const Order order = grid_->config().order;
  if (order == Order::kReverse) {
    std::reverse(round_.begin(), round_.end());
  } else if (order == Order::kRandom) {
    for (size_t i = round_.size() - 1; i > 0; --i) {
      std::swap(round_[i], round_[random_.below(i + 1)]);
    }
    // Random order: some run again before others have run at all.
    const size_t kept = 1 + random_.below(round_.size());
    for (size_t i = kept; i < round_.size(); ++i) {
      ready_.push_back(round_[i]);
    }
    round_.resize(kept);
  }
}

Fiber* Block::next_in_round() {
  if (next_ == round_.size() || grid_->failed()) {
    return nullptr;
  }
  return round_[next_++];
}

void Block::enter(Fiber& fiber) {
  current_ = &fiber;
  threadIdx = fiber.index;
  fiber.state = State::kReady;
  fiber.atomics_in_turn = 0;
}

// Switch directly to the next fiber, if there is one: half as many switches as by the scheduler.
void Block::suspend(State state) {
  Fiber& fiber = *current_;
  fiber.state = state;
  at_grid_barrier_ += state == State::kAtGridBarrier;
  Context* to = &scheduler_;
  if (!yielding_) {
    if (Fiber* next = next_in_round()) {
      enter(*next);
      to = &next->context;
    }
  }
  switch_context(fiber.context, *to,
                 state == State::kExited ? Leaving::kForGood : Leaving::kForNow);
}

void Block::yield() {
  wake(*current_);
  yielding_ = true;
  suspend(State::kReady);
}

void Block::let_blocks_run() {
  yielding_ = false;
  if (++yields_ > kMostYields) {
    grid_->fail("livelock: a block has let others run " + std::to_string(kMostYields) +
                " times; it may wait for a block that is not in flight");
  } else if (!grid_->failed()) {
    grid_->yield(worker_, id_, yields_);
  }
}

void Block::sync_grid() {
  grid_->wait_for_grid(worker_, id_);
  at_grid_barrier_ = 0;
  ++grid_barriers_;
  for (Fiber& fiber : fibers_) {
    if (fiber.state == State::kAtGridBarrier) {
      wake(fiber);
    }
  }
}

void Block::wake(Fiber& fiber) {
  fiber.state = State::kReady;
  ready_.push_back(&fiber);
}

void Block::wake_barrier() {
  if (under_tsan()) {
    fences.complete_barrier();
  }
  barrier.arrived = 0;
  ++barrier.generation;
  for (Fiber& fiber : fibers_) {
    if (fiber.state == State::kAtBarrier) {
      wake(fiber);
    }
  }
}

char* Block::fresh_order() {
  if (!under_tsan()) {
    return nullptr;
  }
  orders_used_ = (orders_used_ + kOrderBytes) % kOrdersBytes;
  return orders_ + orders_used_;
}

void Block::finish() {
  dynamic_shared_.close();
  if (under_asan() && live_ > 0) {
    // Stack frames of threads that a failure stopped are still poisoned.
    for (const Fiber& fiber : fibers_) {
      __asan_unpoison_memory_region(fiber.context.stack_bottom, Stacks::kBytes);
    }
  }
  if (under_tsan()) {
    fences.retire();
    for (Fiber& fiber : fibers_) {
      fiber.fences.retire();
      retire_tsan_fiber(fiber.context.tsan_fiber);
    }
    unmap_pages(orders_, kOrdersBytes);
  }
}

// Neighbours at the same place share a line.
std::string Block::describe_deadlock() const {
  constexpr const char* kStates[] = {"ready", "at a warp function", "at a barrier",
                                     "at a grid sync", "exited"};
  constexpr int kMostGroups = 16;
  std::string text = "deadlock: no thread of the block can go on;";
  size_t first = 0;
  for (int group = 0; group < kMostGroups && first < fibers_.size(); ++group) {
    const Fiber& fiber = fibers_[first];
    size_t last = first;
    while (last + 1 < fibers_.size() && fibers_[last + 1].state == fiber.state &&
           fibers_[last + 1].where.line() == fiber.where.line()) {
      ++last;
    }
    text += " threads " + std::to_string(first) + "-" + std::to_string(last) + " " +
            kStates[static_cast<int>(fiber.state)];
    if (fiber.state != State::kExited) {
      text += std::string(" ") + fiber.where.file_name() + ":" + std::to_string(fiber.where.line());
    }
    text += ";";
    first = last + 1;
  }
  return text + " block " + std::to_string(id_);
}

void fail(const char* format, ...) {
  char message[1024];
  va_list arguments;
  va_start(arguments, format);
  const int length = std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  Block& block = current_block();
  const uint3 thread = block.current()->index;
  char place[128];
  std::snprintf(place, sizeof place, " [block (%u,%u,%u), thread (%u,%u,%u)]", blockIdx.x,
                blockIdx.y, blockIdx.z, thread.x, thread.y, thread.z);
  block.grid().fail(std::string(message, std::min<size_t>(length, sizeof message - 1)) + place);
  block.suspend(State::kExited);
  __builtin_unreachable();
}

void let_others_run() { current_block().yield(); }

unsigned char* dynamic_shared_memory() { return current_block().dynamic_shared(); }

}  // namespace emulator
