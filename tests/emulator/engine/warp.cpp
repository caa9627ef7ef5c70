// Warp collectives: lanes that name the same mask meet and exchange bits.
#include <algorithm>

#include "engine/block.h"
#include "engine/sanitizers.h"

namespace emulator {
namespace {

Meeting& meeting_at(Warp& warp, unsigned bit) { return warp.meetings[__builtin_ctz(bit)]; }

// Return the bit of the open meeting of this mask, or 0.
unsigned find_open(Warp& warp, unsigned mask) {
  for (unsigned open = warp.open; open != 0; open &= open - 1) {
    const unsigned bit = open & -open;
    if (meeting_at(warp, bit).mask == mask) {
      return bit;
    }
  }
  return 0;
}

unsigned open_meeting(Block& block, Warp& warp, Collective collective, unsigned mask, Where where) {
  const unsigned bit = ~warp.in_use & -~warp.in_use;
  warp.in_use |= bit;
  warp.open |= bit;
  Meeting& meeting = meeting_at(warp, bit);
  meeting.collective = collective;
  meeting.mask = mask;
  meeting.arrived = 0;
  meeting.where = where;
  meeting.order = collective == Collective::kSyncWarp ? block.fresh_order() : nullptr;
  return bit;
}

// Close the meeting when every lane of its mask that has not exited has arrived.
bool close_if_complete(Block& block, Warp& warp, unsigned bit, const Fiber* runs_on) {
  Meeting& meeting = meeting_at(warp, bit);
  const unsigned expected = meeting.mask & warp.alive;
  if ((meeting.arrived & expected) != expected) {
    return false;
  }
  warp.open &= ~bit;
  meeting.leaving = __builtin_popcount(meeting.arrived);
  for (unsigned lanes = meeting.arrived; lanes != 0; lanes &= lanes - 1) {
    Fiber& fiber = *warp.lanes[__builtin_ctz(lanes)];
    if (&fiber != runs_on) {
      block.wake(fiber);
    }
  }
  return true;
}

// Wait for the others. The meeting keeps its contents until the caller is suspended again.
const Meeting& attend(Collective collective, unsigned mask, uint64_t bits, Where where) {
  Block& block = current_block();
  Fiber& fiber = *block.current();
  Warp& warp = *fiber.warp;
  if ((mask >> fiber.lane() & 1) == 0) {
    fail("%s:%u: lane %d calls a warp function whose mask %08x leaves it out", where.file_name(),
         static_cast<unsigned>(where.line()), fiber.lane(), mask);
  }
  unsigned bit = find_open(warp, mask);
  if (bit == 0) {
    bit = open_meeting(block, warp, collective, mask, where);
  }
  Meeting& meeting = meeting_at(warp, bit);
  if (meeting.collective != collective) {
    fail("%s:%u: lanes of mask %08x are at different warp functions, others at %s:%u",
         where.file_name(), static_cast<unsigned>(where.line()), mask, meeting.where.file_name(),
         static_cast<unsigned>(meeting.where.line()));
  }
  meeting.arrived |= 1u << fiber.lane();
  meeting.bits[fiber.lane()] = bits;
  fiber.where = where;
  // Shuffles order no memory.
  const bool orders_memory = collective == Collective::kSyncWarp;
  char* const order = meeting.order;
  if (orders_memory) {
    tsan_release(order);
  }
  if (!close_if_complete(block, warp, bit, &fiber)) {
    block.suspend(State::kAtWarpCollective);
  }
  if (orders_memory) {
    tsan_acquire(order);
  }
  if (--meeting.leaving == 0) {
    warp.in_use &= ~bit;
  }
  return meeting;
}

}  // namespace

void Block::leave_warp(Fiber& fiber) {
  Warp& warp = *fiber.warp;
  warp.alive &= ~(1u << fiber.lane());
  for (unsigned open = warp.open; open != 0; open &= open - 1) {
    close_if_complete(*this, warp, open & -open, nullptr);
  }
}

void sync_warp(unsigned mask, Where where) { attend(Collective::kSyncWarp, mask, 0, where); }

uint64_t shuffle(unsigned mask, uint64_t bits, int source, Where where) {
  const Meeting& meeting = attend(Collective::kShuffle, mask, bits, where);
  if ((meeting.arrived >> source & 1) == 0) {
    fail("%s:%u: a shuffle of mask %08x reads lane %d, which is not in it or has exited",
         where.file_name(), static_cast<unsigned>(where.line()), mask, source);
  }
  return meeting.bits[source];
}

int lane_of_caller() { return current_block().current()->lane(); }

}  // namespace emulator
