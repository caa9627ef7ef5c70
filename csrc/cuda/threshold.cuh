// Find the k-th largest key by radix select: histograms of 11, 11 and 10 bits, highest bits first.
#pragma once

#include "cuda/block.cuh"
#include "cuda/kernel_params.cuh"

namespace rho_ext {

// Keys that a thread loads before it uses the first, in vectors of four neighbours. The share of
// each block begins at a multiple of four.
inline constexpr uint32_t kKeysPerVector = 4;
inline constexpr uint32_t kKeysPerThread = 8;

// The bits of a score with its row, also of one that must not be selected: all are different.
__device__ __forceinline__ uint64_t with_row(uint32_t bits, uint32_t row) {
  return uint64_t{bits} << 32 | ~row;
}

// Call visit(bits, rows) for the keys in [begin, end), kKeysPerThread at a time. Rows from `end` on
// have any bits. All threads of the block call it equally often.
template <class Visit>
__device__ __forceinline__ void for_each_keys(const uint32_t* keys, uint32_t begin, uint32_t end,
                                              const Visit& visit) {
  const uint32_t lane = threadIdx.x % 32;
  for (uint32_t base = begin; base < end; base += blockDim.x * kKeysPerThread) {
    const uint32_t first = base + (threadIdx.x - lane) * kKeysPerThread + lane * kKeysPerVector;
    uint32_t bits[kKeysPerThread];
    uint32_t rows[kKeysPerThread];
#pragma unroll
    for (uint32_t i = 0; i < kKeysPerThread; i += kKeysPerVector) {
      const uint32_t row = first + i * 32;
      // The memory of the keys ends with a whole vector.
      const uint4 four =
          row < end ? __ldcg(reinterpret_cast<const uint4*>(keys + row)) : make_uint4(0, 0, 0, 0);
      const uint32_t words[kKeysPerVector] = {four.x, four.y, four.z, four.w};
#pragma unroll
      for (uint32_t j = 0; j < kKeysPerVector; ++j) {
        bits[i + j] = words[j];
        rows[i + j] = row + j;
      }
    }
    visit(bits, rows);
  }
}

// Selected are the rows with with_row(bits, row) >> shift >= prefix: exactly k.
struct Threshold {
  uint64_t prefix;
  int shift;
};

// The digit of the key with some rank, and the number of keys with a larger and with the same
// digit. Rank 1 is the largest key.
struct Digit {
  uint32_t value;
  uint32_t above;
  uint32_t equal;
};

__device__ __forceinline__ Digit find_digit(const uint32_t* histogram, uint32_t rank) {
  __shared__ Digit found;
  const uint32_t mine = static_cast<uint32_t>(kDigits) / blockDim.x;
  const uint32_t first = static_cast<uint32_t>(kDigits) - 1 - threadIdx.x * mine;
  uint32_t sum = 0;
  for (uint32_t i = 0; i < mine; ++i) {
    sum += histogram[first - i];
  }
  uint32_t above = sum_before(sum);
  if (above < rank && rank <= above + sum) {
    uint32_t digit = first;
    while (above + histogram[digit] < rank) {
      above += histogram[digit];
      --digit;
    }
    found = {digit, above, histogram[digit]};
  }
  __syncthreads();
  return found;
}

// Count one digit of the keys that have a prefix, over all blocks of the group. This block has the
// keys in [begin, end). `turn` counts the digits: three histograms of all blocks take turns.
__device__ __forceinline__ void count_digits(const BlockGroup& group, const KernelParams& params,
                                             uint32_t begin, uint32_t end,
                                             const Threshold& threshold, int width, int turn,
                                             uint32_t* shared) {
  for (uint32_t digit = threadIdx.x; digit < kDigits; digit += blockDim.x) {
    shared[digit] = 0;
  }
  __syncthreads();
  for_each_keys(params.keys, begin, end, [&](const auto& bits, const auto& rows) {
#pragma unroll
    for (uint32_t i = 0; i < kKeysPerThread; ++i) {
      const uint64_t digits = with_row(bits[i], rows[i]) >> threshold.shift;
      if (rows[i] < end && digits >> width == threshold.prefix) {
        atomicAdd(&shared[digits & ((1u << width) - 1)], 1u);
      }
    }
  });
  __syncthreads();
  if (!group.grid) {
    return;
  }
  uint32_t* global = params.state->histograms + turn % 3 * kDigits;
  uint32_t* previous = params.state->histograms + (turn + 2) % 3 * kDigits;
  for (uint32_t digit = threadIdx.x; digit < kDigits; digit += blockDim.x) {
    if (shared[digit] != 0) {
      atomicAdd(&global[digit], shared[digit]);
    }
  }
  group.sync();
  for (uint32_t digit = threadIdx.x; digit < kDigits; digit += blockDim.x) {
    shared[digit] = __ldcg(&global[digit]);
    // All blocks have read it, and use it again after one more barrier.
    if (group.rank() == 0) {
      previous[digit] = 0;
    }
  }
  __syncthreads();
}

// Find the threshold of the k largest keys, 1 <= k <= n. This block has the keys in [begin, end).
__device__ __forceinline__ Threshold find_threshold(const BlockGroup& group,
                                                    const KernelParams& params, uint32_t begin,
                                                    uint32_t end) {
  uint32_t* histogram = reinterpret_cast<uint32_t*>(dynamic_shared());
  Threshold threshold{0, 64};
  uint32_t rank = static_cast<uint32_t>(params.outputs.k);
  int turn = 0;
  // The digits of the row decide among equal scores. Most searches end before.
  for (int digit = 0; digit < 6; ++digit) {
    const int width = digit % 3 < 2 ? 11 : 10;
    threshold.shift -= width;
    if (threshold.shift < 32 && (params.batch.rows - 1) >> threshold.shift == 0) {
      // All rows have the same digit: ones.
      threshold.prefix = ((threshold.prefix + 1) << width) - 1;
      continue;
    }
    count_digits(group, params, begin, end, threshold, width, turn, histogram);
    ++turn;
    const Digit found = find_digit(histogram, rank);
    threshold.prefix = threshold.prefix << width | found.value;
    rank -= found.above;
    if (found.equal == rank) {
      break;  // All keys with this prefix are selected: lower digits do not matter.
    }
  }
  return threshold;
}

}  // namespace rho_ext
