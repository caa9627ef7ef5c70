// The interface between ops.cpp and the kernels (select.cu). It is plain data: ops.cpp includes no
// CUDA header, and select.cu includes no torch header.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/score.h"
#include "cuda/plan.h"

namespace rho_ext {

enum class FloatType : int32_t { kFloat32, kFloat16, kBFloat16 };

// An argument as an array. The stride is in elements. `data` is null if the argument is missing.
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
  int64_t length;           // rows of a sequence, as in LogitsRows; `rows` if there is one
  int64_t stride;           // from row to row, in elements
  int64_t sequence_stride;  // from sequence to sequence
  IndexArray labels;
  IndexArray ids;   // missing if `il` has one value a row
  FloatArray il;    // missing if the method needs none
  int64_t il_size;  // number of values in `il`
  FloatArray bias;
  Method method;
  int64_t ignore_index;
  double label_smoothing;
};

// Each op fills its own outputs; the other pointers are null. Both fill `losses`.
struct Outputs {
  float* losses;
  float* scores;     // score
  float* values;     // select
  int64_t* indices;  // select
  int32_t* invalid;  // select
  int64_t k;
};

// Memory that a launch needs beside its inputs and outputs. `state` has kStateBytes, or is null if
// the plan needs none. It is zero before and after a launch, and serves one launch at a time.
// `scratch` has plan.scratch_bytes with any content.
struct Workspace {
  void* state;
  void* scratch;
};

// All functions return null, or the text of an error.
const char* device_limits(DeviceLimits& limits);
const char* launch(const Batch& batch, const Outputs& outputs, const Plan& plan,
                   const Workspace& workspace, void* stream);
const char* allocate(void** data, size_t bytes);
const char* set_zero(void* data, size_t bytes, void* stream);
const char* is_capturing(void* stream, bool& capturing);

}  // namespace rho_ext
