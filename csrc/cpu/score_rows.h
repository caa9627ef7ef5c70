// Score every row of a batch: look up its inputs, reduce its logits, compute the score.
#pragma once

#include <algorithm>
#include <atomic>

#include "common/checks.h"
#include "cpu/isa.h"
#include "cpu/lookup.h"

namespace rho_ext {

// Smallest task that is worth waking another thread for, in units of the time of one logit. A row
// has the fixed cost of kRowCost logits.
inline constexpr int64_t kTaskCost = 32768;
inline constexpr int64_t kRowCost = 64;

constexpr Reduction reduction_of(Method method) {
  switch (method) {
    case Method::kGradNorm:
      return kWithoutLabel;
    case Method::kEntropy:
      return kEntropySum;
    default:
      return kLogSumExp;
  }
}

// Return the most that a row may sum relative to its label's logit (RowBlock::most). An exp of x
// errs by a share of x: a loss is as large as that, while a logsumexp may be small.
constexpr float most_of(Method method) { return method == Method::kLogSumExp ? 0x1p4f : 0x1p92f; }

inline RowKernel row_kernel(ScalarType dtype, Method method) {
  const RowKernels& kernels = row_kernels();
  Reduction reduction = reduction_of(method);
  switch (dtype) {
    case ScalarType::Half:
      return kernels.float16[reduction];
    case ScalarType::BFloat16:
      return kernels.bfloat16[reduction];
    case ScalarType::Double:
      return kernels.float64[reduction];
    default:
      return kernels.float32[reduction];
  }
}

inline void atomic_min(std::atomic<int64_t>& first, int64_t row) {
  int64_t seen = first.load(std::memory_order_relaxed);
  while (row < seen && !first.compare_exchange_weak(seen, row, std::memory_order_relaxed)) {
  }
}

// Call emit(first row, number of rows, scores, losses) for all rows, in blocks and from any thread.
// The score is NaN for an invalid row and -inf for an ignored one. Throws IndexError for the first
// label or id that is out of range.
template <class Real, class Emit>
void score_rows(const char* op, const ScoreArguments& in, const Emit& emit) {
  Tensor logits = in.logits;
  LogitsRows all(logits);
  if (!all.dense) {
    logits = torch::stable::contiguous(logits);
    all = LogitsRows(logits);
  }
  const int64_t n = all.count;
  const int64_t classes = all.classes;
  const auto element_bytes = static_cast<int64_t>(logits.element_size());
  const char* data = static_cast<const char*>(logits.const_data_ptr());
  const Lookup lookup(in, all);
  const std::optional<FloatView> bias = view_of<FloatView>(in.bias);
  const RowKernel kernel = row_kernel(dtype_of(logits), in.method);
  std::atomic<int64_t> first_bad{n};

  const ScoreKernels<Real>& kernels = score_kernels<Real>();
  auto score_block = [&](int64_t begin, int64_t rows, const int64_t* label, const float* il,
                         const BlockStats& stats) {
    Real score[kRowsPerCall];
    Real loss[kRowsPerCall];
    if (in.method == Method::kLogSumExp) {
      for (int64_t i = 0; i < rows; ++i) {
        loss[i] = static_cast<Real>(stats.loss[i]);
        score[i] = static_cast<Real>(stats.max[i] + stats.log_sum[i]);
      }
    } else if (reduction_of(in.method) == kLogSumExp) {
      kernels.score(in.method, stats.loss, il, rows, loss, score);
    } else {
      for (int64_t i = 0; i < rows; ++i) {
        const RowStats<double> row{stats.max[i],    stats.sum[i],      stats.log_sum[i],
                                   stats.moment[i], stats.distance[i], stats.label[i]};
        loss[i] = static_cast<Real>(loss_of(row, in.method, classes, in.label_smoothing));
        score[i] = score_of<Real>(in.method, row, loss[i], static_cast<Real>(il[i]));
      }
    }
    if (bias) {
      bias->visit([&](auto values) {
        for (int64_t i = 0; i < rows; ++i) {
          score[i] += static_cast<Real>(static_cast<float>(values[begin + i]));
        }
      });
    }
    kernels.finish(label, rows, loss, score);
    emit(begin, rows, score, loss);
  };
  auto score_range = [&](int64_t begin, int64_t end) {
    int64_t label[kRowsPerCall] = {};
    float il[kRowsPerCall];
    int64_t soon[kRowsPerCall] = {};
    BlockStats stats;
    lookup.prefetch(begin, kRowsAhead);
    int64_t sequence = begin / all.length;
    int64_t first = begin % all.length;
    int64_t rows = 0;
    for (int64_t base = begin; base < end; base += rows) {
      // A block has rows of one sequence.
      rows = std::min({kRowsPerCall, end - base, all.length - first});
      const int64_t before = sequence * all.sequence_stride + first * all.stride;
      lookup.prefetch(base + kRowsAhead, kRowsPerCall);
      const int64_t bad = lookup.read(base, base + rows, label, il);
      if (bad < base + rows) {
        atomic_min(first_bad, bad);
        return;
      }
      kernel({data + before * element_bytes, all.stride, classes, before, label, rows,
              in.label_smoothing, most_of(in.method),
              lookup.il_prefetch(base + rows, std::min(base + rows + kRowsPerCall, end), soon)},
             stats);
      score_block(base, rows, label, il, stats);
      first += rows;
      if (first == all.length) {
        ++sequence;
        first = 0;
      }
    }
  };
  const int64_t grain = std::max<int64_t>(1, kTaskCost / (classes + kRowCost));
  torch::stable::parallel_for(0, n, grain, score_range);

  if (first_bad.load() < n) {
    lookup.fail(op, first_bad.load());
  }
}

// Call fn<double>() for float64 logits, else fn<float>().
template <class Fn>
auto dispatch_real(const Tensor& logits, const Fn& fn) {
  return dtype_of(logits) == ScalarType::Double ? fn.template operator()<double>()
                                                : fn.template operator()<float>();
}

}  // namespace rho_ext
