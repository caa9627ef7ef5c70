// Scores every row of a batch: label and IL lookups, the row kernels, the score.
#pragma once

#include <algorithm>
#include <atomic>
#include <limits>
#include <type_traits>

#include "common/checks.h"
#include "cpu/isa.h"

namespace rho_ext {

// Rows that one call of a row kernel covers; their lookups sit in small arrays on the stack.
inline constexpr int64_t kRowsPerCall = 64;

// Fewer logits than this are not worth waking another thread for.
inline constexpr int64_t kLogitsPerTask = 32768;

inline Reduction reduction_of(Method method) {
  switch (method) {
    case Method::kGradNorm:
      return kOthers;
    case Method::kEntropy:
      return kEntropySum;
    default:
      return kLogSumExp;
  }
}

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

template <class View>
std::optional<View> view_of(const std::optional<Tensor>& tensor) {
  return tensor ? std::optional<View>(*tensor) : std::nullopt;
}

inline void keep_smaller(std::atomic<int64_t>& first, int64_t row) {
  int64_t seen = first.load(std::memory_order_relaxed);
  while (row < seen && !first.compare_exchange_weak(seen, row, std::memory_order_relaxed)) {
  }
}

// Calls emit(row, score, loss) for every row, from any thread. The score is NaN for an invalid row
// and -inf for an ignored one. Throws IndexError for the first label or id that is out of range.
template <class Real, class Emit>
void score_rows(const char* op, const ScoreArguments& in, const Emit& emit) {
  // The kernels walk along a row; whatever its stride, a row costs no copy.
  Tensor logits = in.logits.size(1) == 1 || in.logits.stride(1) == 1
                      ? in.logits
                      : torch::stable::contiguous(in.logits);
  const int64_t n = logits.size(0);
  const int64_t classes = logits.size(1);
  const int64_t stride = logits.stride(0);
  const int64_t row_bytes = stride * static_cast<int64_t>(logits.element_size());
  const char* data = static_cast<const char*>(logits.const_data_ptr());
  const bool reads_il = uses_il(in.method);
  const int64_t table_rows = reads_il ? in.il->size(0) : 0;
  const IndexView labels(in.labels);
  const std::optional<IndexView> ids = view_of<IndexView>(in.ids);
  const std::optional<FloatView> il = reads_il ? view_of<FloatView>(in.il) : std::nullopt;
  const std::optional<FloatView> bias = view_of<FloatView>(in.bias);
  const RowKernel kernel = row_kernel(logits.scalar_type(), in.method);
  std::atomic<int64_t> first_bad{n};

  auto score_range = [&](int64_t begin, int64_t end) {
    int64_t label[kRowsPerCall];
    float row_il[kRowsPerCall];
    RowStats stats[kRowsPerCall];
    for (int64_t base = begin; base < end; base += kRowsPerCall) {
      const int64_t rows = std::min(kRowsPerCall, end - base);
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t y = labels[base + i];
        label[i] = y == in.ignore_index ? -1 : y;
        row_il[i] = 0.0f;
        if (y == in.ignore_index) {
          continue;
        }
        const int64_t id = ids ? (*ids)[base + i] : base + i;
        if (y < 0 || y >= classes || (il && (id < 0 || id >= table_rows))) {
          keep_smaller(first_bad, base + i);
          return;
        }
        row_il[i] = il ? (*il)[id] : 0.0f;
      }
      kernel({data + base * row_bytes, stride, classes, label, rows, in.label_smoothing != 0.0},
             stats);
      for (int64_t i = 0; i < rows; ++i) {
        if (label[i] < 0) {
          emit(base + i, -std::numeric_limits<Real>::infinity(), Real{0});
          continue;
        }
        const Real loss =
            static_cast<Real>(loss_of(stats[i], in.method, classes, in.label_smoothing));
        Real score = score_of<Real>(in.method, stats[i], loss, static_cast<Real>(row_il[i]));
        if (bias) {
          score += static_cast<Real>((*bias)[base + i]);
        }
        emit(base + i, score, loss);
      }
    }
  };
  torch::stable::parallel_for(0, n, std::max<int64_t>(1, kLogitsPerTask / classes), score_range);

  const int64_t bad = first_bad.load();
  if (bad == n) {
    return;
  }
  if (labels[bad] < 0 || labels[bad] >= classes) {
    index_error(op, ": labels must be in [0, ", classes, ") or equal to ignore_index (",
                in.ignore_index, "), got ", labels[bad], " at row ", bad);
  }
  index_error(op, ": ids must be in [0, ", table_rows, "), the rows of il, got ", (*ids)[bad],
              " at row ", bad);
}

// Runs fn<float>() or fn<double>(): float64 logits are scored in float64, all others in float32.
template <class Fn>
auto dispatch_real(const Tensor& logits, const Fn& fn) {
  return logits.scalar_type() == ScalarType::Double ? fn.template operator()<double>()
                                                    : fn.template operator()<float>();
}

}  // namespace rho_ext
