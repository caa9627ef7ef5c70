// The engine's functions for the device headers. The engine is never compiled with
// -fsanitize=thread, but the headers are. Threads of a kernel exchange data through these functions
// only, so that TSan sees only the synchronisation that CUDA promises.
#pragma once

#include <cstdint>
#include <source_location>

namespace emulator {

using Where = std::source_location;

void block_barrier(Where where);
void grid_barrier(Where where);

// Wait for the lanes of the mask that have not exited.
enum class Collective { kSyncWarp, kShuffle };
void sync_warp(unsigned mask, Where where);
// Exchange bits among them. Return those of the source lane.
uint64_t shuffle(unsigned mask, uint64_t bits, int source, Where where);
int lane_of_caller();

void fence();
// Called before and after every atomic: two halves of a fence, and a chance for others to run.
void before_atomic(const void* address);
void after_atomic(const void* address);
// Let other threads run, also those of other blocks. A thread that only waits calls it.
void let_others_run();

unsigned char* dynamic_shared_memory();

// End the launch with cudaErrorLaunchFailure and this message.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace emulator
