// The interface between the op and the row kernels. The kernels are compiled once for each
// instruction set, so this header holds plain data only: an inline function from a shared header
// could be kept by the linker in its AVX-512 form and crash an older machine.
#pragma once

#include <cstdint>

#include "common/row_stats.h"

namespace rho_ext {

// Rows that one call of a row kernel covers at most; what belongs to them sits on the stack.
inline constexpr int64_t kRowsPerCall = 64;

struct RowBlock {
  const void* logits;     // first row
  int64_t stride;         // elements from row to row
  int64_t classes;        // elements in a row
  int64_t before;         // elements from the start of the batch to the first row
  const int64_t* labels;  // negative: the row does not count
  int64_t rows;
  bool smoothing;  // fill RowStats::distance
};

// RowStats of each row, field by field so that vectors fill them. `moment` and `distance` are there
// where they were asked for; rows that do not count hold anything.
struct BlockStats {
  double max[kRowsPerCall];
  double sum[kRowsPerCall];
  double log_sum[kRowsPerCall];
  double moment[kRowsPerCall];
  double distance[kRowsPerCall];
  double label[kRowsPerCall];
};

using RowKernel = void (*)(const RowBlock& block, BlockStats& stats);

enum Reduction { kLogSumExp, kOthers, kEntropySum, kReductions };

// One kernel for each type of logits and each set of reductions.
struct RowKernels {
  const char* isa;
  RowKernel float32[kReductions];
  RowKernel float16[kReductions];
  RowKernel bfloat16[kReductions];
  RowKernel float64[kReductions];
  // For the test of its error: the exp of all kernels but float64's, in place, for values <= 0.
  void (*exp)(float* values, int64_t count);
};

extern const RowKernels kRowsBaseline;
#ifdef RHO_EXT_X86
extern const RowKernels kRowsAvx2;
extern const RowKernels kRowsAvx512;
#endif

}  // namespace rho_ext
