// Fibers as TSan knows them. They are costly to create, so a launch takes over those of the last
// one. Within a launch each serves one thread: TSan would not see a race of two threads that it
// takes for one.
#pragma once

namespace emulator {

// Both may be called by a fiber: no lock or allocation in them is visible to TSan.
void* take_tsan_fiber();
void retire_tsan_fiber(void* fiber);

// After a launch: what was retired may serve again.
void recycle_tsan_fibers();

}  // namespace emulator
