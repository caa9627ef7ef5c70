// All tests of the emulator. Each test from mistake_race on is for one sanitizer.
#pragma once

namespace selftest {

void shuffles();
void barriers();
void atomics();
void shared_memory();
void intrinsics();
void grid_sync();
void polling();
void ticket();
void schedules();
void runtime_api();
void wrong_collectives();
void wrong_memory();
void wrong_launches();
void mistake_race();
void mistake_release_fence();
void mistake_acquire_fence();
void mistake_global();
void mistake_dynamic_shared();

struct Test {
  const char* name;
  void (*run)();
};
inline constexpr Test kTests[] = {
    {"shuffles", shuffles},
    {"barriers", barriers},
    {"atomics", atomics},
    {"shared_memory", shared_memory},
    {"intrinsics", intrinsics},
    {"grid_sync", grid_sync},
    {"polling", polling},
    {"ticket", ticket},
    {"schedules", schedules},
    {"runtime_api", runtime_api},
    {"wrong_collectives", wrong_collectives},
    {"wrong_memory", wrong_memory},
    {"wrong_launches", wrong_launches},
    {"mistake_race", mistake_race},
    {"mistake_release_fence", mistake_release_fence},
    {"mistake_acquire_fence", mistake_acquire_fence},
    {"mistake_global", mistake_global},
    {"mistake_dynamic_shared", mistake_dynamic_shared},
};

}  // namespace selftest
