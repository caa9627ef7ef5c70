// TSan's fibers. They are costly to create, so a launch reuses those of the last one. Within a
// launch each serves one thread: TSan would miss a race of two threads that share a fiber.
#pragma once

namespace emulator {

// Fibers may call both: TSan sees no lock or allocation in them.
void* take_tsan_fiber();
void retire_tsan_fiber(void* fiber);

// After a launch: make retired fibers available again.
void recycle_tsan_fibers();

}  // namespace emulator
