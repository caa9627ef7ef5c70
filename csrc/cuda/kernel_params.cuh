// The parameters of a kernel, and reads of labels, ids, irreducible losses and bias.
#pragma once

#include "cuda/logits.cuh"
#include "cuda/row_sums.cuh"

namespace rho_ext {

// Counters that blocks share. A launch finds them zero and leaves them zero.
struct State {
  uint32_t ticket;   // number of blocks that have finished their rows
  uint32_t invalid;  // number of invalid rows
  uint32_t winners;  // number of selected keys that were collected
  uint32_t unused[61];
  uint32_t histograms[3 * kDigits];  // three digits of the keys of all blocks
};
static_assert(sizeof(State) == kStateBytes);

struct KernelParams {
  Batch batch;
  Outputs outputs;
  Plan plan;
  ExtraSums extra;
  State* state;
  uint32_t* keys;     // ordered_bits of the score of each row
  RowSums* partials;  // sums of each slice of each row
  uint64_t* winners;  // two arrays of k keys
};

__device__ __forceinline__ int64_t read(const IndexArray& array, int64_t i) {
  return array.wide ? __ldg(static_cast<const int64_t*>(array.data) + i * array.stride)
                    : __ldg(static_cast<const int32_t*>(array.data) + i * array.stride);
}

__device__ __forceinline__ float read(const FloatArray& array, int64_t i) {
  const int64_t at = i * array.stride;
  switch (array.type) {
    case FloatType::kFloat16:
      return float16_to_float(__ldg(static_cast<const uint16_t*>(array.data) + at));
    case FloatType::kBFloat16:
      return to_float(BFloat16{__ldg(static_cast<const uint16_t*>(array.data) + at)});
    default:
      return __ldg(static_cast<const float*>(array.data) + at);
  }
}

template <class T>
__device__ __forceinline__ const T* row_start(const KernelParams& params, int64_t row) {
  const Batch& batch = params.batch;
  const T* logits = static_cast<const T*>(batch.logits);
  // The same branch for all threads: only several sequences cost a division. It has 32 bits, as row
  // numbers do.
  if (batch.length == batch.rows) {
    return logits + row * batch.stride;
  }
  const auto sequence = static_cast<uint32_t>(row) / static_cast<uint32_t>(batch.length);
  return logits + sequence * batch.sequence_stride + (row - sequence * batch.length) * batch.stride;
}

}  // namespace rho_ext
