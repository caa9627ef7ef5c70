// The interface between the op and the row kernels. The kernels are compiled once for each
// instruction set, so this header holds plain data and what is always inlined: of another inline
// function the linker could keep the AVX-512 form, and crash an older machine.
#pragma once

#include <cstdint>

#include "common/key.h"
#include "common/row_stats.h"
#include "common/score.h"
#include "cpu/prefetch.h"

namespace rho_ext {

// Rows that one call of a row kernel covers at most; what belongs to them sits on the stack.
inline constexpr int64_t kRowsPerCall = 64;

// Values that the caller will read, kRowsPerCall of them, each somewhere else in a table: one is
// fetched with each row, because in a burst the core would wait for them. An id may be wrong: a
// fetch does not mind.
struct SoonRead {
  const void* table;
  int64_t step;  // bytes from value to value
  const int64_t* ids;

  [[gnu::always_inline]] void fetch(int64_t row) const {
    const auto offset = static_cast<uintptr_t>(ids[row]) * static_cast<uintptr_t>(step);
    fetch_into_l2(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(table) + offset));
  }
};

struct RowBlock {
  const void* logits;     // first row
  int64_t stride;         // elements from row to row
  int64_t classes;        // elements in a row
  int64_t before;         // elements from the start of the batch to the first row
  const int64_t* labels;  // kRowsPerCall of them; negative: the row does not count
  int64_t rows;
  double smoothing;  // of the labels; if it is not 0, RowStats::distance is filled
  SoonRead soon;
};

// RowStats of each row, field by field so that vectors fill them, and for kLogSumExp the loss.
// `moment` and `distance` are there where they were asked for; rows that do not count hold
// anything.
struct BlockStats {
  double max[kRowsPerCall];
  double sum[kRowsPerCall];
  double log_sum[kRowsPerCall];
  double moment[kRowsPerCall];
  double distance[kRowsPerCall];
  double label[kRowsPerCall];
  double loss[kRowsPerCall];
};

using RowKernel = void (*)(const RowBlock& block, BlockStats& stats);

enum Reduction { kLogSumExp, kOthers, kEntropySum, kReductions };

// What is done with the losses and scores of rows.
template <class Real>
struct ScoreKernels {
  // Losses in the type of the scores, and the scores of the methods that need nothing else of a
  // row.
  void (*score)(Method method, const double* losses, const float* il, int64_t rows, Real* loss,
                Real* score);
  // Of a row with a negative label the score becomes -inf and the loss 0.
  void (*ignore)(const int64_t* labels, int64_t rows, Real* loss, Real* score);
  // Writes the ordered bits of scores and returns how many are NaN.
  int64_t (*order)(const Real* scores, int64_t rows, bits_t<Real>* ordered);
  // Writes, in order, the keys of the rows in [begin, end) whose ordered bits reach the floor;
  // `stop` is the end of them.
  void (*keys_from)(bits_t<Real> floor, const bits_t<Real>* ordered, int64_t begin, int64_t end,
                    key_t<Real>* keys, const key_t<Real>* stop);
};

// One kernel for each type of logits and each set of reductions, and what else has a row's worth of
// work for every row.
struct RowKernels {
  const char* isa;
  RowKernel float32[kReductions];
  RowKernel float16[kReductions];
  RowKernel bfloat16[kReductions];
  RowKernel float64[kReductions];
  // Copies labels, -1 in place of those to be ignored. False if another one is not a class.
  bool (*check_labels)(const int64_t* labels, int64_t rows, int64_t classes, int64_t ignore_index,
                       int64_t* checked);
  // Copies ids, 0 in place of those that are no points. False if one of them belongs to a label
  // that counts.
  bool (*check_ids)(const int64_t* ids, int64_t rows, int64_t points, const int64_t* labels,
                    int64_t* checked);
  ScoreKernels<float> score_float;
  ScoreKernels<double> score_double;
  // For the test of its error: the exp of all kernels but float64's, in place, for values <= 0.
  void (*exp)(float* values, int64_t count);
};

extern const RowKernels kRowsBaseline;
#ifdef RHO_EXT_X86
extern const RowKernels kRowsAvx2;
extern const RowKernels kRowsAvx512;
#endif

}  // namespace rho_ext
