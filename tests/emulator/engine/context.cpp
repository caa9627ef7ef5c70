#include "engine/context.h"

#include <pthread.h>

#include "engine/pages.h"
#include "engine/sanitizers.h"
#include "engine/tsan_fibers.h"

namespace emulator {
namespace {

constexpr size_t kGuardBytes = 4096;

#if defined(__x86_64__)
// Save the callee-saved registers, swap the stacks, and restore the registers of the other context.
extern "C" void emulator_swap_stacks(void** saved, void* resumed);
asm(R"(
  .text
  .type emulator_swap_stacks, @function
emulator_swap_stacks:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
  .size emulator_swap_stacks, .-emulator_swap_stacks
)");
constexpr int kSavedRegisters = 6;

void start_at(Context& context, void (*entry)()) {
  auto** top =
      reinterpret_cast<void**>(static_cast<char*>(context.stack_bottom) + context.stack_bytes);
  // On entry of a function the stack is 8 bytes off a multiple of 16: a null return address.
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < kSavedRegisters; ++i) {
    *--top = nullptr;
  }
  context.stack_pointer = top;
}

void swap_stacks(Context& from, Context& to) {
  emulator_swap_stacks(&from.stack_pointer, to.stack_pointer);
}
#else
void start_at(Context& context, void (*entry)()) {
  getcontext(&context.registers);
  context.registers.uc_stack.ss_sp = context.stack_bottom;
  context.registers.uc_stack.ss_size = context.stack_bytes;
  context.registers.uc_link = nullptr;
  makecontext(&context.registers, entry, 0);
}

void swap_stacks(Context& from, Context& to) { swapcontext(&from.registers, &to.registers); }
#endif

}  // namespace

void prepare_context(Context& context, void* stack_bottom, size_t stack_bytes, void (*entry)()) {
  context.stack_bottom = stack_bottom;
  context.stack_bytes = stack_bytes;
  context.fake_stack = nullptr;
  context.tsan_fiber = under_tsan() ? take_tsan_fiber() : nullptr;
  start_at(context, entry);
}

void adopt_thread(Context& context) {
  if (under_tsan()) {
    context.tsan_fiber = __tsan_get_current_fiber();
  }
  if (under_asan()) {
    pthread_attr_t attributes;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &context.stack_bottom, &context.stack_bytes);
    pthread_attr_destroy(&attributes);
  }
}

void begin_context() {
  if (under_asan()) {
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
  }
}

void switch_context(Context& from, Context& to, Leaving leaving) {
  if (under_tsan()) {
    tsan_switch(to.tsan_fiber);
  }
  if (under_asan()) {
    __sanitizer_start_switch_fiber(leaving == Leaving::kForGood ? nullptr : &from.fake_stack,
                                   to.stack_bottom, to.stack_bytes);
  }
  swap_stacks(from, to);
  if (under_asan()) {
    __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
  }
}

Stacks::~Stacks() {
  for (char* bottom : bottoms_) {
    unmap_pages(bottom - kGuardBytes, kGuardBytes + kBytes);
  }
}

void Stacks::reserve(size_t count) {
  bottoms_.reserve(count);
  while (bottoms_.size() < count) {
    auto* pages = static_cast<char*>(map_pages(kGuardBytes + kBytes));
    protect_pages(pages, kGuardBytes);
    bottoms_.push_back(pages + kGuardBytes);
  }
}

}  // namespace emulator
