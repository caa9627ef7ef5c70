// Tests, checks, launches and schedules for the emulator's own tests.
#pragma once

#include <cuda_runtime.h>

#include <cstdio>
#include <functional>
#include <map>
#include <string>

namespace selftest {

inline int failures = 0;

#define CHECK(condition)                                          \
  do {                                                            \
    if (!(condition)) {                                           \
      std::printf("%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      ++selftest::failures;                                       \
    }                                                             \
  } while (0)

inline std::map<std::string, void (*)()>& tests() {
  static std::map<std::string, void (*)()> all;
  return all;
}

#define TEST(name)                                                                    \
  void name();                                                                        \
  [[maybe_unused]] const bool name##_is_listed = tests().emplace(#name, name).second; \
  void name()

struct Shape {
  dim3 grid = 1;
  dim3 block = 32;
  size_t dynamic_shared = 0;
  bool cooperative = false;
};

template <class... Parameters, class... Arguments>
cudaError_t launch(const Shape& shape, void (*kernel)(Parameters...), Arguments... arguments) {
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = shape.cooperative;
  cudaLaunchConfig_t config;
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.dynamic_shared;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// Return the message of a launch that must fail.
template <class... Parameters, class... Arguments>
std::string failure(const Shape& shape, void (*kernel)(Parameters...), Arguments... arguments) {
  return cudaGetErrorString(launch(shape, kernel, arguments...));
}

inline bool contains(const std::string& text, const std::string& part) {
  const bool found = text.find(part) != std::string::npos;
  if (!found) {
    std::printf("expected '%s' in: %s\n", part.c_str(), text.c_str());
  }
  return found;
}

struct Schedule {
  unsigned long long seed = 0;
  int order = 0;
  int resident = 4;
  int parallel = 0;
  int yield_permille = 0;
};
inline void use(const Schedule& schedule) {
  emulator_configure(schedule.seed, schedule.order, schedule.resident, schedule.parallel,
                     schedule.yield_permille);
}

// Run the test in every order, one block at a time and in parallel.
inline void in_all_schedules(const std::function<void()>& test) {
  for (int order = 0; order < 3; ++order) {
    for (int parallel = 0; parallel < 2; ++parallel) {
      use({.seed = 7, .order = order, .parallel = parallel, .yield_permille = 100 * order});
      test();
    }
  }
}

}  // namespace selftest
