// The interface between the glue (ops.cpp) and the kernels (select.cu): plain data, so that the one
// sees no CUDA header and the other no torch header.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/score.h"
#include "cuda/plan.h"

namespace rho_ext {

enum class FloatType : int32_t { kFloat32, kFloat16, kBFloat16 };

// Strides in elements. No data: the argument is missing.
struct FloatArray {
  const void* data = nullptr;
  int64_t stride = 1;
  FloatType type = FloatType::kFloat32;
};

struct IndexArray {
  const void* data = nullptr;
  int64_t stride = 1;
  bool wide = true;  // int64, else int32
};

struct Batch {
  const void* logits;
  FloatType type;
  int64_t rows;
  int64_t classes;
  int64_t stride;  // from row to row
  IndexArray labels;
  IndexArray ids;  // missing: `il` has one value a row
  FloatArray il;   // missing where the method needs none
  int64_t points;  // in `il`
  FloatArray bias;
  Method method;
  int64_t ignore_index;
  double label_smoothing;
};

// What `score` fills is null for `select`, and the other way round; `losses` is always there.
struct Outputs {
  float* losses;
  float* scores;     // score
  float* values;     // select
  int64_t* indices;  // select
  int32_t* invalid;  // select
  int64_t k;
};

// Memory that a launch needs beside its inputs and outputs. `state` has kStateBytes, zero before
// the launch and zero again after it, and one launch at a time, or null where the plan needs none;
// `scratch` has as many as the plan says, and holds anything.
struct Workspace {
  void* state;
  void* scratch;
};

// All of them return null, or what went wrong.
const char* device_limits(DeviceLimits& limits);
const char* launch(const Batch& batch, const Outputs& outputs, const Plan& plan,
                   const Workspace& workspace, void* stream);
const char* allocate(void** data, size_t bytes);
const char* set_zero(void* data, size_t bytes, void* stream);
const char* is_capturing(void* stream, bool& capturing);

}  // namespace rho_ext
