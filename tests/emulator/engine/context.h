// Execution contexts with their own stacks, and the switch between them.
#pragma once

#include <cstddef>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulator {

struct Context {
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t registers;
#endif
  // For ASan.
  void* stack_bottom = nullptr;
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;
  // For TSan.
  void* tsan_fiber = nullptr;
};

// Make the context start at entry, which never returns.
void prepare_context(Context& context, void* stack_bottom, size_t stack_bytes, void (*entry)());

// Make this the context of the running OS thread.
void adopt_thread(Context& context);

// Must be called first in a context's entry.
void begin_context();

enum class Leaving { kForNow, kForGood };
void switch_context(Context& from, Context& to, Leaving leaving = Leaving::kForNow);

// Stacks of equal size, each above a protected page.
class Stacks {
 public:
  static constexpr size_t kBytes = size_t{256} << 10;

  ~Stacks();
  void reserve(size_t count);
  void* bottom(size_t index) const { return bottoms_[index]; }

 private:
  std::vector<char*> bottoms_;
};

}  // namespace emulator
