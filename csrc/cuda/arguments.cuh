// What every thread of a launch gets, and how it reads the columns beside the logits.
#pragma once

#include "cuda/logits.cuh"
#include "cuda/row_sums.cuh"

namespace rho_ext {

// Zero between launches: a launch leaves it as it found it.
struct State {
  uint32_t ticket;   // blocks that have finished their rows
  uint32_t invalid;  // rows
  uint32_t unused[62];
  uint32_t histograms[3 * kDigits];  // of the keys of all blocks, one for each digit
};
static_assert(sizeof(State) == kStateBytes);

struct Arguments {
  Batch batch;
  Outputs outputs;
  Plan plan;
  FullSums full;
  State* state;
  uint32_t* keys;     // ordered_bits of the score of each row
  RowSums* partials;  // of each slice of each row
  uint32_t* counts;   // of each block, how many keys win and how many tie
  uint64_t* winners;  // two arrays of k
};

__device__ __forceinline__ int64_t read(const IndexArray& array, int64_t i) {
  return array.wide ? __ldg(static_cast<const int64_t*>(array.data) + i * array.stride)
                    : __ldg(static_cast<const int32_t*>(array.data) + i * array.stride);
}

__device__ __forceinline__ float read(const FloatArray& array, int64_t i) {
  const int64_t at = i * array.stride;
  switch (array.type) {
    case FloatType::kFloat16:
      return widen_float16(__ldg(static_cast<const uint16_t*>(array.data) + at));
    case FloatType::kBFloat16:
      return widen(BFloat16{__ldg(static_cast<const uint16_t*>(array.data) + at)});
    default:
      return __ldg(static_cast<const float*>(array.data) + at);
  }
}

template <class T>
__device__ __forceinline__ const T* row_start(const Arguments& in, int64_t row) {
  return static_cast<const T*>(in.batch.logits) + row * in.batch.stride;
}

}  // namespace rho_ext
