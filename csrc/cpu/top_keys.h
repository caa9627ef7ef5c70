// Find the top k of n rows in descending order, on torch's threads. The keys of selectable rows are
// distinct, so the result does not depend on the number of threads.
//
// With many rows, a sample gives a floor: probably a few more than k scores reach it. A stable
// filter makes keys of those rows, and a radix sort by score alone orders them. The filter keeps
// the order of rows, so equal scores need no further digit. No step depends on the distribution of
// scores.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "common/key.h"
#include "common/tensor.h"
#include "cpu/isa.h"

namespace rho_ext {

// Up to this number of keys, sorting by comparisons is as fast.
inline constexpr int64_t kFewKeys = 128;

// Keys of a chunk, the work unit of a thread. Fewer keys are not worth waking another thread for.
inline constexpr int64_t kKeysPerChunk = 32768;

inline constexpr int64_t kMaxSample = 4096;

// Widest digit of the radix sort: the write positions, one for each value, stay in the cache.
inline constexpr int kWidestDigit = 11;

// The lowest ordered bits of a row that may be selected.
template <class Bits>
inline constexpr Bits kLowestBits = 1;

inline int64_t chunks_of(int64_t n) { return (n + kKeysPerChunk - 1) / kKeysPerChunk; }

// Call body(chunk, begin, end) for every chunk of n keys.
template <class Body>
void for_each_chunk(int64_t n, const Body& body) {
  const int64_t chunks = chunks_of(n);
  torch::stable::parallel_for(0, chunks, 1, [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk) {
      body(chunk, n * chunk / chunks, n * (chunk + 1) / chunks);
    }
  });
}

// Move the k largest keys to the front, in descending order, by comparisons.
template <class Key>
void sort_few(Key* keys, int64_t n, int64_t k) {
  if (k > 0 && k < n) {
    std::nth_element(keys, keys + k, keys + n, std::greater<Key>());
  }
  std::sort(keys, keys + k, std::greater<Key>());
}

// Estimate a floor: at least k rows, but few more, have ordered bits >= floor. It is too high in
// about one of a thousand cases. It is never as low as the bits of an excluded row.
template <class Bits>
Bits probable_floor(const Bits* scores, int64_t n, int64_t k) {
  const double root = std::sqrt(static_cast<double>(n));
  const int64_t size = std::min(kMaxSample, static_cast<int64_t>(4.0 * root));
  const double share = static_cast<double>(k) / static_cast<double>(n);
  const double expected = share * static_cast<double>(size);
  const double deviation = std::sqrt(expected * (1.0 - share));
  const int64_t rank = static_cast<int64_t>(expected + 3.0 * deviation + 3.0);
  if (rank >= size) {
    return kLowestBits<Bits>;
  }
  // Sample at multiples of the golden ratio modulo 1: evenly spread, without a period.
  Bits sample[kMaxSample];
  uint64_t place = 0;
  for (int64_t i = 0; i < size; ++i) {
    place += 0x9E3779B97F4A7C15;
    sample[i] = scores[(place >> 32) * static_cast<uint64_t>(n) >> 32];
  }
  std::nth_element(sample, sample + rank, sample + size, std::greater<Bits>());
  return std::max(sample[rank], kLowestBits<Bits>);
}

// Count the rows with ordered bits >= floor before each chunk; the last element is the total.
template <class Bits>
std::vector<int64_t> starts_from(Bits floor, const Bits* scores, int64_t n) {
  std::vector<int64_t> starts(static_cast<size_t>(chunks_of(n)) + 1);
  for_each_chunk(n, [&](int64_t chunk, int64_t begin, int64_t end) {
    // Count in the type of the scores, so that both fit in vectors of equal length.
    Bits count = 0;
    for (int64_t i = begin; i < end; ++i) {
      count += scores[i] >= floor;
    }
    starts[static_cast<size_t>(chunk)] = static_cast<int64_t>(count);
  });
  std::exclusive_scan(starts.begin(), starts.end(), starts.begin(), int64_t{0});
  return starts;
}

// A digit: some bits of the difference of a key's score bits and the floor.
template <class Real>
struct Digit {
  bits_t<Real> floor;
  int shift;
  int bits;

  size_t values() const { return size_t{1} << bits; }
  size_t operator()(key_t<Real> key) const {
    return static_cast<size_t>((key_bits<Real>(key) - floor) >> shift) & (values() - 1);
  }
};

// Sort the keys by one digit, descending and stable. `counts` has a counter for each value of the
// digit in each chunk.
template <class Real>
void sort_by_digit(const key_t<Real>* from, key_t<Real>* to, int64_t n, Digit<Real> digit,
                   std::vector<uint32_t>& counts) {
  const size_t values = digit.values();
  const size_t chunks = static_cast<size_t>(chunks_of(n));
  for_each_chunk(n, [&](int64_t chunk, int64_t begin, int64_t end) {
    uint32_t* count = counts.data() + static_cast<size_t>(chunk) * values;
    std::fill_n(count, values, 0);
    for (int64_t i = begin; i < end; ++i) {
      ++count[digit(from[i])];
    }
  });
  uint32_t place = 0;
  for (size_t value = values; value-- > 0;) {
    for (size_t chunk = 0; chunk < chunks; ++chunk) {
      place += std::exchange(counts[chunk * values + value], place);
    }
  }
  for_each_chunk(n, [&](int64_t chunk, int64_t begin, int64_t end) {
    uint32_t* place_of = counts.data() + static_cast<size_t>(chunk) * values;
    for (int64_t i = begin; i < end; ++i) {
      to[place_of[digit(from[i])]++] = from[i];
    }
  });
}

// Sort by score, descending and stable. Return the array with the result, one of the two; the other
// one is overwritten.
template <class Real>
key_t<Real>* radix_sort(key_t<Real>* keys, key_t<Real>* other, int64_t n, bits_t<Real> floor) {
  const bits_t<Real> highest = key_bits<Real>(*std::max_element(keys, keys + n));
  // Sort only the bits in which scores above the floor differ, with digits of equal width, so that
  // the counters do not outnumber the keys.
  const int bits = std::bit_width(highest - floor);
  const int passes = (bits + kWidestDigit - 1) / kWidestDigit;
  const int width = passes == 0 ? 0 : (bits + passes - 1) / passes;
  std::vector<uint32_t> counts(static_cast<size_t>(chunks_of(n)) << width);
  for (int shift = 0; shift < bits; shift += width) {
    sort_by_digit<Real>(keys, other, n, {floor, shift, width}, counts);
    std::swap(keys, other);
  }
  return keys;
}

// Call emit(rank, key) for every rank below k, from any thread. If there are too few selectable
// rows, the key is kExcluded. `scores` has the ordered bits of every row.
template <class Real, class Emit>
void top_keys(const bits_t<Real>* scores, int64_t n, int64_t k, const Emit& emit) {
  using Key = key_t<Real>;
  if (n <= kFewKeys) {
    Key keys[kFewKeys];
    for (int64_t row = 0; row < n; ++row) {
      keys[row] = key_of<Real>(scores[row], row);
    }
    sort_few(keys, n, k);
    for (int64_t rank = 0; rank < k; ++rank) {
      emit(rank, keys[rank]);
    }
    return;
  }
  bits_t<Real> floor = probable_floor(scores, n, k);
  std::vector<int64_t> starts = starts_from(floor, scores, n);
  if (starts.back() < k && floor > kLowestBits<bits_t<Real>>) {
    floor = kLowestBits<bits_t<Real>>;
    starts = starts_from(floor, scores, n);
  }
  const int64_t kept = starts.back();
  // Two arrays, between which the radix sort moves the keys.
  auto keys = std::make_unique_for_overwrite<Key[]>(static_cast<size_t>(2 * kept));
  for_each_chunk(n, [&](int64_t chunk, int64_t begin, int64_t end) {
    const int64_t* start = starts.data() + chunk;
    score_kernels<Real>().keys_from(floor, scores, begin, end, keys.get() + start[0],
                                    keys.get() + start[1]);
  });
  const int64_t found = std::min(k, kept);
  Key* sorted = keys.get();
  if (kept <= kFewKeys) {
    sort_few(sorted, kept, found);
  } else {
    sorted = radix_sort<Real>(sorted, sorted + kept, kept, floor);
  }
  for_each_chunk(k, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t rank = begin; rank < end; ++rank) {
      emit(rank, rank < found ? sorted[rank] : kExcluded<Real>);
    }
  });
}

}  // namespace rho_ext
