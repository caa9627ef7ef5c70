// Lets tests force parts of the launch plan, so that small inputs reach every path. Takes the place
// of csrc/cuda/choose_plan.h. Included by one source file only.
#pragma once

#include "cuda/plan.h"

namespace rho_ext {

inline ForcedPlan forced_plan;

inline Plan choose_plan(const Sizes& sizes, const DeviceLimits& limits) {
  return make_plan(sizes, limits, forced_plan);
}

}  // namespace rho_ext

// Forces parts of all plans from now on: see ForcedPlan. Zeros leave the choice to the plan.
extern "C" __attribute__((visibility("default"))) void rho_ext_force_plan(
    int32_t regime, int32_t top_k_stage, int32_t threads, int32_t blocks, int32_t slices,
    int32_t sort_tile) {
  rho_ext::forced_plan = {regime, top_k_stage, threads, blocks, slices, sort_tile};
}
