// The interface between the op and the row kernels. The kernels are compiled once for each
// instruction set, so this header has only plain data and functions that are always inlined. Of any
// other inline function the linker could keep the AVX-512 copy, and crash an older machine.
#pragma once

#include <cstdint>

#include "common/key.h"
#include "common/row_stats.h"
#include "common/score.h"
#include "cpu/prefetch.h"

namespace rho_ext {

// Most rows of one call of a row kernel. Their labels and results lie on the stack.
inline constexpr int64_t kRowsPerCall = 64;

// The next kRowsPerCall reads from the IL table. A row kernel prefetches one with each row: in a
// burst the core would stall. An id may be out of range, because a prefetch never faults.
struct ILPrefetch {
  const void* table;
  int64_t step;  // bytes from value to value
  const int64_t* ids;

  [[gnu::always_inline]] void prefetch(int64_t row) const {
    const auto offset = static_cast<uintptr_t>(ids[row]) * static_cast<uintptr_t>(step);
    prefetch_to_l2(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(table) + offset));
  }
};

struct RowBlock {
  const void* logits;     // first row
  int64_t stride;         // elements from row to row
  int64_t classes;        // elements in a row
  int64_t before;         // elements from the start of the batch to the first row
  const int64_t* labels;  // kRowsPerCall of them; a row with a negative label is skipped
  int64_t rows;
  double smoothing;  // label smoothing; if not 0, RowStats::distance is filled
  float most;        // largest sum relative to the label's logit that is accurate enough
  ILPrefetch il_prefetch;
};

// RowStats of each row as arrays, which vectors fill, and for kLogSumExp the loss. `moment` and
// `distance` are filled only if they are needed. Rows with a negative label have any values.
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

enum Reduction { kLogSumExp, kWithoutLabel, kEntropySum, kReductionCount };

// Operations on the losses and scores of rows.
template <class Real>
struct ScoreKernels {
  // Convert losses to the type of the scores, and compute the scores of rho, loss and neg_il.
  void (*score)(Method method, const double* losses, const float* il, int64_t rows, Real* loss,
                Real* score);
  // Set the score of rows with a negative label to -inf and their loss to 0, and any NaN to
  // torch.nan.
  void (*finish)(const int64_t* labels, int64_t rows, Real* loss, Real* score);
  // Write the ordered bits of scores and return the number of NaN.
  int64_t (*order)(const Real* scores, int64_t rows, bits_t<Real>* ordered);
  // Write, in order, the keys of the rows in [begin, end) with ordered bits >= floor. `stop` is the
  // end of the array.
  void (*keys_from)(bits_t<Real> floor, const bits_t<Real>* ordered, int64_t begin, int64_t end,
                    key_t<Real>* keys, const key_t<Real>* stop);
};

// One kernel for each type of logits and each reduction, and other functions with work for every
// row.
struct RowKernels {
  const char* isa;
  RowKernel float32[kReductionCount];
  RowKernel float16[kReductionCount];
  RowKernel bfloat16[kReductionCount];
  RowKernel float64[kReductionCount];
  // Copy labels, with -1 for ignored ones. Return false if another label is not a class.
  bool (*check_labels)(const int64_t* labels, int64_t rows, int64_t classes, int64_t ignore_index,
                       int64_t* checked);
  // Copy ids, with 0 for those out of range. Return false if such a row has a valid label.
  bool (*check_ids)(const int64_t* ids, int64_t rows, int64_t il_size, const int64_t* labels,
                    int64_t* checked);
  ScoreKernels<float> score_float;
  ScoreKernels<double> score_double;
  // Replace values <= 0 by their exp, as all kernels but those of float64 compute it. For tests.
  void (*exp)(float* values, int64_t count);
};

extern const RowKernels kRowsBaseline;
#ifdef RHO_EXT_X86
extern const RowKernels kRowsAvx2;
extern const RowKernels kRowsAvx512;
#endif

}  // namespace rho_ext
