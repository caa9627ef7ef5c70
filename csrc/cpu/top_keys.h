// The k largest of n keys in descending order, on torch's threads. Keys are distinct but for the
// excluded ones, so there is one right answer, whatever the number of threads.
//
// Many keys: a sample gives a floor that a few more than k keys reach, one stable filter keeps
// those, and a radix sort by score alone puts them in order: they come in ascending order of rows,
// so equal scores need no digit of their own. Every step costs a read or two of the keys, whatever
// the scores look like.
#pragma once

#include <algorithm>
#include <array>
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

namespace rho_ext {

// Up to here comparisons are as fast as the steps for many keys.
inline constexpr int64_t kFewKeys = 128;

// Each thread walks over whole chunks; fewer keys than this are not worth waking another one for.
inline constexpr int64_t kKeysPerChunk = 32768;

inline constexpr int64_t kMaxSample = 4096;

// 32 bits of score are three digits of 11 bits, and the 2048 places that a pass writes to stay in
// the cache. Few keys take four passes with digits of 8 bits: the counters would cost more than
// they.
inline constexpr int64_t kKeysForWideDigits = 2048;
inline constexpr int kWideDigit = 11;
inline constexpr int kNarrowDigit = 8;

inline int64_t chunks_of(int64_t n) { return (n + kKeysPerChunk - 1) / kKeysPerChunk; }

// Calls body(chunk, begin, end) for every chunk of n keys.
template <class Body>
void for_each_chunk(int64_t n, const Body& body) {
  const int64_t chunks = chunks_of(n);
  torch::stable::parallel_for(0, chunks, 1, [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk) {
      body(chunk, n * chunk / chunks, n * (chunk + 1) / chunks);
    }
  });
}

template <class Real>
inline constexpr key_t<Real> kLowestKey = kExcluded<Real> + 1;

// Puts the k largest keys first, in descending order, by comparisons.
template <class Key>
void sort_few(Key* keys, int64_t n, int64_t k) {
  if (k > 0 && k < n) {
    std::nth_element(keys, keys + k, keys + n, std::greater<Key>());
  }
  std::sort(keys, keys + k, std::greater<Key>());
}

// A key that at least k keys reach, except in one of about a thousand cases, and few more than k.
template <class Real>
key_t<Real> probable_floor(const key_t<Real>* keys, int64_t n, int64_t k) {
  const double root = std::sqrt(static_cast<double>(n));
  const int64_t size = std::min(kMaxSample, static_cast<int64_t>(4.0 * root));
  const double share = static_cast<double>(k) / static_cast<double>(n);
  const double expected = share * static_cast<double>(size);
  const double deviation = std::sqrt(expected * (1.0 - share));
  const int64_t rank = static_cast<int64_t>(expected + 3.0 * deviation + 3.0);
  if (rank >= size) {
    return kLowestKey<Real>;
  }
  // Multiples of the golden ratio, modulo 1: spread evenly, and in step with no period of the rows.
  using Key = key_t<Real>;
  Key sample[kMaxSample];
  uint64_t place = 0;
  for (int64_t i = 0; i < size; ++i) {
    place += 0x9E3779B97F4A7C15;
    sample[i] = keys[(place >> 32) * static_cast<uint64_t>(n) >> 32];
  }
  std::nth_element(sample, sample + rank, sample + size, std::greater<Key>());
  return std::max(sample[rank], kLowestKey<Real>);
}

// How many keys reach the floor before each chunk and, at the end, in all.
template <class Key>
std::vector<int64_t> starts_from(Key floor, const Key* keys, int64_t n) {
  std::vector<int64_t> starts(static_cast<size_t>(chunks_of(n)) + 1);
  for_each_chunk(n, [&](int64_t chunk, int64_t begin, int64_t end) {
    int64_t count = 0;
    for (int64_t i = begin; i < end; ++i) {
      count += keys[i] >= floor;
    }
    starts[static_cast<size_t>(chunk)] = count;
  });
  std::exclusive_scan(starts.begin(), starts.end(), starts.begin(), int64_t{0});
  return starts;
}

// Copies the keys that reach the floor in their order. `starts` is that of starts_from.
template <class Key>
void copy_from(Key floor, const Key* keys, int64_t n, const std::vector<int64_t>& starts,
               Key* out) {
  for_each_chunk(n, [&](int64_t chunk, int64_t begin, int64_t end) {
    // No branch on the key, which would often be mispredicted: every key is written, and stays if
    // it reaches the floor. The slot after the last one belongs to the next chunk.
    Key* next = out + starts[static_cast<size_t>(chunk)];
    const Key* stop = out + starts[static_cast<size_t>(chunk) + 1];
    for (int64_t i = begin; i < end && next < stop; ++i) {
      *next = keys[i];
      next += keys[i] >= floor;
    }
  });
}

// One counter for each value of a digit.
template <int kBits>
using DigitCounts = std::array<uint32_t, size_t{1} << kBits>;

// Moves the keys into descending order of one digit, keeping the order of equal ones. False, and
// nothing moved, if all have the same.
template <int kBits, class Key>
bool sort_by_digit(const Key* from, Key* to, int64_t n, int shift,
                   std::vector<DigitCounts<kBits>>& counts) {
  constexpr size_t kDigits = DigitCounts<kBits>{}.size();
  const auto digit_of = [shift](Key key) { return static_cast<size_t>(key >> shift) % kDigits; };
  for_each_chunk(n, [&](int64_t chunk, int64_t begin, int64_t end) {
    auto& count = counts[static_cast<size_t>(chunk)];
    count.fill(0);
    for (int64_t i = begin; i < end; ++i) {
      ++count[digit_of(from[i])];
    }
  });
  DigitCounts<kBits> next{};
  for (const auto& count : counts) {
    for (size_t digit = 0; digit < kDigits; ++digit) {
      next[digit] += count[digit];
    }
  }
  if (next[digit_of(from[0])] == n) {
    return false;
  }
  uint32_t place = 0;
  for (size_t digit = kDigits; digit-- > 0;) {
    place += std::exchange(next[digit], place);
  }
  for (auto& count : counts) {
    for (size_t digit = 0; digit < kDigits; ++digit) {
      next[digit] += std::exchange(count[digit], next[digit]);
    }
  }
  for_each_chunk(n, [&](int64_t chunk, int64_t begin, int64_t end) {
    auto& place_of = counts[static_cast<size_t>(chunk)];
    for (int64_t i = begin; i < end; ++i) {
      to[place_of[digit_of(from[i])]++] = from[i];
    }
  });
  return true;
}

// Sorts by score, descending, and keeps the order of equal scores. The result lies in one of the
// two arrays, and the other one is overwritten.
template <int kBits, class Key>
Key* radix_sort(Key* keys, Key* other, int64_t n) {
  constexpr int kKeyBits = static_cast<int>(8 * sizeof(Key));
  std::vector<DigitCounts<kBits>> counts(static_cast<size_t>(chunks_of(n)));
  for (int shift = kKeyBits / 2; shift < kKeyBits; shift += kBits) {
    if (sort_by_digit<kBits>(keys, other, n, shift, counts)) {
      std::swap(keys, other);
    }
  }
  return keys;
}

// Calls emit(rank, key) for every rank below k, from any thread, with an excluded key where there
// are no more others. Overwrites the keys.
template <class Real, class Emit>
void top_keys(key_t<Real>* keys, int64_t n, int64_t k, const Emit& emit) {
  using Key = key_t<Real>;
  if (n <= kFewKeys) {
    sort_few(keys, n, k);
    for (int64_t rank = 0; rank < k; ++rank) {
      emit(rank, keys[rank]);
    }
    return;
  }
  Key floor = probable_floor<Real>(keys, n, k);
  std::vector<int64_t> starts = starts_from(floor, keys, n);
  if (starts.back() < k && floor > kLowestKey<Real>) {
    floor = kLowestKey<Real>;
    starts = starts_from(floor, keys, n);
  }
  const int64_t kept = starts.back();
  auto winners = std::make_unique_for_overwrite<Key[]>(static_cast<size_t>(kept));
  copy_from(floor, keys, n, starts, winners.get());
  const int64_t found = std::min(k, kept);
  Key* sorted = winners.get();
  if (kept <= kFewKeys) {
    sort_few(sorted, kept, found);
  } else if (kept < kKeysForWideDigits) {
    sorted = radix_sort<kNarrowDigit>(winners.get(), keys, kept);
  } else {
    sorted = radix_sort<kWideDigit>(winners.get(), keys, kept);
  }
  for_each_chunk(k, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t rank = begin; rank < end; ++rank) {
      emit(rank, rank < found ? sorted[rank] : kExcluded<Real>);
    }
  });
}

}  // namespace rho_ext
