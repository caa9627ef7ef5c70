// What the device headers ask of the engine. The engine is never compiled with -fsanitize=thread,
// the headers are: whatever the threads of a kernel exchange passes through these functions, so
// that TSan sees no synchronisation but the one that CUDA promises.
#pragma once

#include <cstdint>
#include <source_location>

namespace emulator {

using Where = std::source_location;

enum class Vote { kCount, kAnd, kOr };
void block_barrier(Where where);
int block_vote(Vote vote, bool predicate, Where where);
void grid_barrier(Where where);

// The lanes of the mask meet: each shows its bits to all others. Returns the lanes that came, which
// are those of the mask that have not exited.
enum class Collective { kSyncWarp, kShuffle, kBallot, kMatch, kReduce };
unsigned meet(Collective collective, unsigned mask, uint64_t bits, uint64_t* all, Where where);
// The bits of the source lane.
uint64_t shuffle(unsigned mask, uint64_t bits, int source, Where where);
// The lanes whose predicate holds; the lanes whose bits are the caller's.
unsigned ballot(unsigned mask, bool predicate, Where where);
unsigned match(unsigned mask, uint64_t bits, Where where);
int lane_of_caller();
unsigned lanes_alive();

void fence();
// Around every atomic: the two halves of a fence, and a chance for others to run.
void before_atomic(const void* address);
void after_atomic(const void* address);
// A thread that only waits lets others run, also those of other blocks.
void let_others_run();

unsigned char* dynamic_shared_memory();

// Ends the launch with cudaErrorLaunchFailure and this message.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace emulator
