// Find the k-th largest key by radix select: histograms of 11, 11 and 10 bits, highest bits first.
#pragma once

#include "cuda/block.cuh"
#include "cuda/kernel_params.cuh"

namespace rho_ext {

// Number of neighbouring keys that a thread reads as one vector. The share of each block begins at
// a multiple of it.
inline constexpr uint32_t kKeysPerThread = 4;

// Read the keys from `row` on. Past `end` they are 0, a value that no selectable row has.
__device__ __forceinline__ void read_keys(const uint32_t* keys, uint32_t row, uint32_t end,
                                          uint32_t (&key)[kKeysPerThread]) {
  uint4 four;
  if (row + kKeysPerThread <= end) {
    four = __ldcg(reinterpret_cast<const uint4*>(keys + row));
  } else {
    const auto one = [&](uint32_t i) { return row + i < end ? __ldcg(keys + row + i) : 0; };
    four = make_uint4(one(0), one(1), one(2), one(3));
  }
  key[0] = four.x;
  key[1] = four.y;
  key[2] = four.z;
  key[3] = four.w;
}

// Call visit(key, inside) for the keys in [begin, end), shared among the threads of the block. Past
// the end the key is 0 and `inside` is false.
template <class Visit>
__device__ __forceinline__ void for_each_key(const uint32_t* keys, uint32_t begin, uint32_t end,
                                             const Visit& visit) {
  for (uint32_t row = begin + threadIdx.x * kKeysPerThread; row < end;
       row += blockDim.x * kKeysPerThread) {
    uint32_t key[kKeysPerThread];
    read_keys(keys, row, end, key);
#pragma unroll
    for (uint32_t i = 0; i < kKeysPerThread; ++i) {
      visit(key[i], row + i < end);
    }
  }
}

// Selected are the keys with key >> shift > prefix and, of those with key >> shift == prefix, the
// first `ties` in the order of their rows.
struct Threshold {
  uint32_t prefix;
  int shift;
  uint32_t ties;
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
  uint32_t total = 0;
  uint32_t above = sum_before(sum, total);
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
// keys in [begin, end).
__device__ __forceinline__ void count_digits(const BlockGroup& group, const uint32_t* keys,
                                             uint32_t begin, uint32_t end, uint64_t prefix,
                                             int shift, int width, uint32_t* shared,
                                             uint32_t* global) {
  const uint32_t digits = 1u << width;
  for (uint32_t digit = threadIdx.x; digit < kDigits; digit += blockDim.x) {
    shared[digit] = 0;
  }
  __syncthreads();
  for_each_key(keys, begin, end, [&](uint32_t key, bool inside) {
    if (inside && (uint64_t{key} >> (shift + width)) == prefix) {
      atomicAdd(&shared[(key >> shift) % digits], 1u);
    }
  });
  __syncthreads();
  if (group.size == 1) {
    return;
  }
  for (uint32_t digit = threadIdx.x; digit < digits; digit += blockDim.x) {
    if (shared[digit] != 0) {
      atomicAdd(&global[digit], shared[digit]);
    }
  }
  group.sync();
  for (uint32_t digit = threadIdx.x; digit < digits; digit += blockDim.x) {
    shared[digit] = __ldcg(&global[digit]);
  }
  __syncthreads();
}

// Find the threshold of the k largest keys, 1 <= k <= n. This block has the keys in [begin, end).
__device__ __forceinline__ Threshold find_threshold(const BlockGroup& group,
                                                    const KernelParams& params, uint32_t begin,
                                                    uint32_t end) {
  uint32_t* histogram = reinterpret_cast<uint32_t*>(dynamic_shared());
  Threshold threshold{0, 32, static_cast<uint32_t>(params.outputs.k)};
  for (int pass = 0; pass < 3; ++pass) {
    const int width = pass < 2 ? 11 : 10;
    threshold.shift -= width;
    count_digits(group, params.keys, begin, end, threshold.prefix, threshold.shift, width,
                 histogram, params.state->histograms + pass * kDigits);
    const Digit digit = find_digit(histogram, threshold.ties);
    threshold.prefix = threshold.prefix << width | digit.value;
    threshold.ties -= digit.above;
    if (digit.equal == threshold.ties) {
      break;  // All keys with this prefix are selected: lower digits do not matter.
    }
  }
  return threshold;
}

}  // namespace rho_ext
