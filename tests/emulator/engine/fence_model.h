// Fences as TSan can see them, after the rules of C++11: a fence takes a snapshot of what happened
// before it, a later atomic publishes the snapshot, and a fence after an atomic that read it takes
// it in. An atomic alone, which is relaxed, orders nothing.
#pragma once

namespace emulator {

class FenceModel {
 public:
  void fence();
  void before_atomic(void* address, void* tsan_fiber);
  void after_atomic(void* address, void* tsan_fiber);
  void destroy();

 private:
  bool fenced_ = false;
  // Addresses that TSan knows the orders by, and fibers to pass an order on without taking it in.
  char snapshot_ = 0;
  char pending_ = 0;
  void* publisher_ = nullptr;
  void* reader_ = nullptr;
};

}  // namespace emulator
