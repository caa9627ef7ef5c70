// Loops over labels, ids and scores of many rows, which the compiler vectorises. Included only by
// rows.inc.
#pragma once

#include "common/key.h"
#include "cpu/vector_math.h"

namespace rho_ext {
namespace {

inline bool below(int64_t end, int64_t value) {
  return static_cast<uint64_t>(value) < static_cast<uint64_t>(end);
}

// The loops only record that some row is wrong, so that correct rows cost no branch.
bool check_labels(const int64_t* labels, int64_t rows, int64_t classes, int64_t ignore_index,
                  int64_t* checked) {
  int64_t wrong = 0;
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t label = labels[i];
    const bool ignored = label == ignore_index;
    wrong |= (!ignored & !below(classes, label)) ? 1 : 0;
    checked[i] = ignored ? -1 : label;
  }
  return wrong == 0;
}

bool check_ids(const int64_t* ids, int64_t rows, int64_t il_size, const int64_t* labels,
               int64_t* checked) {
  int64_t wrong = 0;
  for (int64_t i = 0; i < rows; ++i) {
    const bool known = below(il_size, ids[i]);
    wrong |= (!known & (labels[i] >= 0)) ? 1 : 0;
    checked[i] = known ? ids[i] : 0;
  }
  return wrong == 0;
}

template <class Real>
void score_by_loss(Method method, const double* losses, const float* il, int64_t rows, Real* loss,
                   Real* score) {
  for (int64_t i = 0; i < rows; ++i) {
    loss[i] = static_cast<Real>(losses[i]);
  }
  for (int64_t i = 0; i < rows; ++i) {
    const Real value = static_cast<Real>(il[i]);
    score[i] = method == Method::kRho     ? loss[i] - value
               : method == Method::kNegIl ? -value
                                          : loss[i];
  }
}

template <class Real>
void finish_rows(const int64_t* labels, int64_t rows, Real* loss, Real* score) {
  for (int64_t i = 0; i < rows; ++i) {
    score[i] = labels[i] < 0 ? -static_cast<Real>(__builtin_inf()) : canonical_nan(score[i]);
    loss[i] = labels[i] < 0 ? Real{0} : canonical_nan(loss[i]);
  }
}

template <class Real>
int64_t order_scores(const Real* scores, int64_t rows, bits_t<Real>* ordered) {
  bits_t<Real> nan = 0;
  for (int64_t i = 0; i < rows; ++i) {
    ordered[i] = ordered_bits(scores[i]);
    nan += scores[i] != scores[i] ? 1 : 0;
  }
  return static_cast<int64_t>(nan);
}

template <class Real>
void keys_from(bits_t<Real> floor, const bits_t<Real>* ordered, int64_t begin, int64_t end,
               key_t<Real>* keys, const key_t<Real>* stop) {
  // No branch on the score, which would often be mispredicted: every key is written, and the next
  // one overwrites it if it is below the floor. Never write at `stop`.
  for (int64_t i = begin; i < end && keys < stop; ++i) {
    *keys = key_of<Real>(ordered[i], i);
    keys += ordered[i] >= floor ? 1 : 0;
  }
}

#if defined(__AVX512F__)
// Compress in registers: some processors compress into memory slowly.
template <>
void keys_from<float>(uint32_t floor, const uint32_t* ordered, int64_t begin, int64_t end,
                      uint64_t* keys, const uint64_t*) {
  constexpr int kCount = kLanes<float>;
  // A key has the row in the lower half and the score in the upper half.
  const auto pairs = [](int first) {
    return (__m512i)(first + lane_numbers<float>() / 2 + lane_numbers<float>() % 2 * kCount);
  };
  const __m512i lower = pairs(0);
  const __m512i upper = pairs(kCount / 2);
  for (int64_t i = begin; i < end; i += kCount) {
    const auto here = static_cast<__mmask16>(end - i < kCount ? (1 << (end - i)) - 1 : 0xffff);
    const __m512i bits = _mm512_maskz_loadu_epi32(here, ordered + i);
    const __mmask16 reached =
        _mm512_mask_cmpge_epu32_mask(here, bits, (__m512i)(UintVector{} + floor));
    const auto rows = (__m512i)(~(lane_numbers<float>() + static_cast<int32_t>(i)));
    const __m512i kept = _mm512_maskz_compress_epi32(reached, bits);
    const __m512i kept_rows = _mm512_maskz_compress_epi32(reached, rows);
    const int count = __builtin_popcount(reached);
    const uint32_t places = (1u << count) - 1;
    _mm512_mask_storeu_epi64(keys, static_cast<__mmask8>(places),
                             _mm512_permutex2var_epi32(kept_rows, lower, kept));
    _mm512_mask_storeu_epi64(keys + kCount / 2, static_cast<__mmask8>(places >> (kCount / 2)),
                             _mm512_permutex2var_epi32(kept_rows, upper, kept));
    keys += count;
  }
}
#endif

}  // namespace
}  // namespace rho_ext
