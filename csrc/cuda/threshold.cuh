// The k-th largest key by radix: histograms of 11, 11 and 10 bits, from the highest on.
#pragma once

#include "cuda/arguments.cuh"
#include "cuda/block.cuh"

namespace rho_ext {

// Each thread takes the keys of as many neighbouring rows at a time, as one vector: shares of a
// team begin at multiples of that.
inline constexpr uint32_t kKeysPerThread = 4;

// The keys from `row` on; 0, which no usable row has, from `end` on.
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

// Calls `visit` with each key in [begin, end), which the threads of the block share, and with 0 for
// places behind the last; the second argument tells them apart.
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

// Keys whose upper bits, from `shift` on, exceed `prefix` win; of those that equal it the first
// `ties` do, in the order of their rows.
struct Threshold {
  uint32_t prefix;
  int shift;
  uint32_t ties;
};

// The digit of the key with a rank, counted from 1 for the largest, and how many have that digit or
// a larger one.
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

// The histogram of one digit of the keys in [begin, end) that have a prefix, for the whole team.
__device__ __forceinline__ void count_digits(const Team& team, const uint32_t* keys, uint32_t begin,
                                             uint32_t end, uint64_t prefix, int shift, int width,
                                             uint32_t* shared, uint32_t* global) {
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
  if (team.size == 1) {
    return;
  }
  for (uint32_t digit = threadIdx.x; digit < digits; digit += blockDim.x) {
    if (shared[digit] != 0) {
      atomicAdd(&global[digit], shared[digit]);
    }
  }
  team.sync();
  for (uint32_t digit = threadIdx.x; digit < digits; digit += blockDim.x) {
    shared[digit] = __ldcg(&global[digit]);
  }
  __syncthreads();
}

// Where the k largest of all keys begin, for 1 <= k <= n; this block has those in [begin, end).
__device__ __forceinline__ Threshold find_threshold(const Team& team, const Arguments& in,
                                                    uint32_t begin, uint32_t end) {
  uint32_t* histogram = reinterpret_cast<uint32_t*>(dynamic_shared());
  Threshold threshold{0, 32, static_cast<uint32_t>(in.outputs.k)};
  for (int pass = 0; pass < 3; ++pass) {
    const int width = pass < 2 ? 11 : 10;
    threshold.shift -= width;
    count_digits(team, in.keys, begin, end, threshold.prefix, threshold.shift, width, histogram,
                 in.state->histograms + pass * kDigits);
    const Digit digit = find_digit(histogram, threshold.ties);
    threshold.prefix = threshold.prefix << width | digit.value;
    threshold.ties -= digit.above;
    if (digit.equal == threshold.ties) {
      break;  // All that have these bits win: the lower ones do not matter.
    }
  }
  return threshold;
}

}  // namespace rho_ext
