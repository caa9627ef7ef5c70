// The launch plan of a call. Builds with RHO_EXT_TEST_HOOKS=ON put a file in its place that lets
// tests force parts of it: tests/emulator/hooks/cuda/choose_plan.h.
#pragma once

#include "cuda/plan.h"

namespace rho_ext {

inline Plan choose_plan(const Sizes& sizes, const DeviceLimits& limits) {
  return make_plan(sizes, limits, {});
}

}  // namespace rho_ext
