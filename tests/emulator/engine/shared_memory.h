// Shared memory. Every block finds garbage in it, which is -1 as an integer and NaN as a float.
#pragma once

#include <cstddef>

namespace emulator {

// The thread-local memory of the library or program that holds a kernel, where its static
// __shared__ variables are.
struct StaticShared {
  size_t module = 0;
  size_t bytes = 0;
};
StaticShared static_shared_of(const void* kernel);
void fill_static_shared(const StaticShared& shared);

class DynamicShared {
 public:
  // The limit for a kernel that asks for no more.
  static constexpr size_t kBytes = size_t{48} << 10;

  DynamicShared();
  ~DynamicShared();
  DynamicShared(const DynamicShared&) = delete;
  DynamicShared& operator=(const DynamicShared&) = delete;

  // ASan reports an access past these bytes until the memory is closed.
  void open(size_t bytes);
  void close();
  unsigned char* data() const { return data_; }

 private:
  unsigned char* data_;
};

}  // namespace emulator
