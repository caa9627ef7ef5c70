// Scores every row of a batch: label and IL lookups, the row kernels, the score.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <limits>
#include <numeric>
#include <type_traits>

#include "common/checks.h"
#include "cpu/isa.h"

namespace rho_ext {

// A task smaller than this is not worth waking another thread for. Unit: the time of one logit; a
// row costs as much as some logits whatever its length.
inline constexpr int64_t kTaskCost = 32768;
inline constexpr int64_t kRowCost = 64;

constexpr Reduction reduction_of(Method method) {
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

// Runs fn<method>(), so that the loops over rows are compiled for one method each.
template <class Fn>
void dispatch_method(Method method, const Fn& fn) {
  switch (method) {
    case Method::kRho:
      return fn.template operator()<Method::kRho>();
    case Method::kLoss:
      return fn.template operator()<Method::kLoss>();
    case Method::kNegIl:
      return fn.template operator()<Method::kNegIl>();
    case Method::kGradNorm:
      return fn.template operator()<Method::kGradNorm>();
    case Method::kEntropy:
      return fn.template operator()<Method::kEntropy>();
  }
}

// Labels and ids are fetched this many rows ahead: the processor's own prefetcher does not always
// find them among the logits and the random reads of the table.
inline constexpr int64_t kRowsAhead = 4 * kRowsPerCall;

// Reads the labels, ids and irreducible losses of at most kRowsPerCall rows at a time, and checks
// them.
class Lookup {
 public:
  Lookup(const ScoreArguments& in, const Tensor& logits)
      : labels_(in.labels),
        ids_(view_of<IndexView>(in.ids)),
        il_(uses_il(in.method) ? view_of<FloatView>(in.il) : std::nullopt),
        ignore_index_(in.ignore_index),
        classes_(logits.size(1)),
        rows_(logits.size(0)),
        points_(il_ ? in.il->size(0) : 0) {}

  // Has the memory fetch the labels and ids of at most `rows` rows.
  void fetch(int64_t begin, int64_t rows) const {
    const int64_t end = std::min(begin + rows, rows_);
    labels_.fetch(begin, end);
    if (il_ && ids_) {
      ids_->fetch(begin, end);
    }
  }

  // Where `read` will find the values of the table, each somewhere else; leaves `places` as they
  // are if it will not look for any. The ids are not checked yet, so a place may lie anywhere,
  // which a prefetch does not mind.
  void find(int64_t begin, int64_t end, const void** places) const {
    if (!il_ || !ids_) {
      return;
    }
    int64_t copy[kRowsPerCall];
    const int64_t* ids = ids_->read(begin, end - begin, copy);
    for (int64_t i = 0; i < end - begin; ++i) {
      places[i] = il_->address(ids[i]);
    }
  }

  // Returns the first row that is out of range, or `end`. An ignored row has label -1 and any il.
  int64_t read(int64_t begin, int64_t end, int64_t* label, float* il) const {
    const RowKernels& kernels = row_kernels();
    const int64_t rows = end - begin;
    int64_t copy[kRowsPerCall];
    bool right =
        kernels.check_labels(labels_.read(begin, rows, copy), rows, classes_, ignore_index_, label);
    if (!il_) {
      std::fill_n(il, rows, 0.0f);
    } else if (!ids_) {
      // The table has one value a row.
      il_->visit([&](auto table) {
        for (int64_t i = 0; i < rows; ++i) {
          il[i] = static_cast<float>(table[begin + i]);
        }
      });
    } else {
      int64_t id[kRowsPerCall];
      right &= kernels.check_ids(ids_->read(begin, rows, copy), rows, points_, label, id);
      il_->visit([&](auto table) {
        for (int64_t i = 0; points_ > 0 && i < rows; ++i) {
          il[i] = static_cast<float>(table[id[i]]);
        }
      });
    }
    return right ? end : first_wrong(begin, end);
  }

  [[noreturn]] void fail(const char* op, int64_t row) const {
    const int64_t label = labels_[row];
    if (label < 0 || label >= classes_) {
      index_error(op, ": labels must be in [0, ", classes_, ") or equal to ignore_index (",
                  ignore_index_, "), got ", label, " at row ", row);
    }
    index_error(op, ": ids must be in [0, ", points_, "), the rows of il, got ", (*ids_)[row],
                " at row ", row);
  }

 private:
  bool is_right(int64_t row) const {
    const auto below = [](int64_t end, int64_t value) { return value >= 0 && value < end; };
    const int64_t label = labels_[row];
    return label == ignore_index_ ||
           (below(classes_, label) && (!il_ || !ids_ || below(points_, (*ids_)[row])));
  }

  int64_t first_wrong(int64_t begin, int64_t end) const {
    while (begin < end && is_right(begin)) {
      ++begin;
    }
    return begin;
  }

  IndexView labels_;
  std::optional<IndexView> ids_;
  std::optional<FloatView> il_;
  int64_t ignore_index_;
  int64_t classes_;
  int64_t rows_;
  int64_t points_;
};

// Calls emit(first row, number of rows, scores, losses) for all rows, some at a time, from any
// thread. The score is NaN for an invalid row and -inf for an ignored one. Throws IndexError for
// the first label or id that is out of range.
template <class Real, class Emit>
void score_rows(const char* op, const ScoreArguments& in, const Emit& emit) {
  // The kernels walk along a row; whatever its stride, a row costs no copy.
  const Tensor logits = in.logits.size(1) == 1 || in.logits.stride(1) == 1
                            ? in.logits
                            : torch::stable::contiguous(in.logits);
  const int64_t n = logits.size(0);
  const int64_t classes = logits.size(1);
  const int64_t stride = logits.stride(0);
  const int64_t row_bytes = stride * static_cast<int64_t>(logits.element_size());
  const char* data = static_cast<const char*>(logits.const_data_ptr());
  const Lookup lookup(in, logits);
  const std::optional<FloatView> bias = view_of<FloatView>(in.bias);
  const RowKernel kernel = row_kernel(dtype_of(logits), in.method);
  std::atomic<int64_t> first_bad{n};

  auto score_block = [&]<Method kMethod>(int64_t begin, int64_t rows, const int64_t* label,
                                         const float* il, const BlockStats& stats) {
    Real score[kRowsPerCall];
    Real loss[kRowsPerCall];
    for (int64_t i = 0; i < rows; ++i) {
      const RowStats<double> row{stats.max[i],    stats.sum[i],      stats.log_sum[i],
                                 stats.moment[i], stats.distance[i], stats.label[i]};
      loss[i] = static_cast<Real>(reduction_of(kMethod) == kOthers
                                      ? loss_of(row, kMethod, classes, in.label_smoothing)
                                      : stats.loss[i]);
      score[i] = score_of<Real>(kMethod, row, loss[i], static_cast<Real>(il[i]));
    }
    if (bias) {
      bias->visit([&](auto values) {
        for (int64_t i = 0; i < rows; ++i) {
          score[i] += static_cast<Real>(static_cast<float>(values[begin + i]));
        }
      });
    }
    const int64_t signs = std::reduce(label, label + rows, int64_t{0}, std::bit_or<>());
    if (signs < 0) {
      for (int64_t i = 0; i < rows; ++i) {
        score[i] = label[i] < 0 ? -std::numeric_limits<Real>::infinity() : score[i];
        loss[i] = label[i] < 0 ? Real{0} : loss[i];
      }
    }
    emit(begin, rows, score, loss);
  };
  auto score_range = [&](int64_t begin, int64_t end) {
    int64_t label[kRowsPerCall];
    float il[kRowsPerCall];
    const void* soon[kRowsPerCall];
    BlockStats stats;
    lookup.fetch(begin, kRowsAhead);
    std::fill_n(soon, kRowsPerCall, data);
    lookup.find(begin, std::min(begin + kRowsPerCall, end), soon);
    std::for_each_n(soon, kRowsPerCall, fetch);
    for (int64_t base = begin; base < end; base += kRowsPerCall) {
      const int64_t rows = std::min(kRowsPerCall, end - base);
      lookup.fetch(base + kRowsAhead, kRowsPerCall);
      lookup.find(base + rows, std::min(base + rows + kRowsPerCall, end), soon);
      const int64_t bad = lookup.read(base, base + rows, label, il);
      if (bad < base + rows) {
        keep_smaller(first_bad, bad);
        return;
      }
      kernel({data + base * row_bytes, stride, classes, base * stride, label, rows,
              in.label_smoothing, soon},
             stats);
      dispatch_method(in.method, [&]<Method kMethod>() {
        score_block.template operator()<kMethod>(base, rows, label, il, stats);
      });
    }
  };
  const int64_t grain = std::max<int64_t>(1, kTaskCost / (classes + kRowCost));
  torch::stable::parallel_for(0, n, grain, score_range);

  if (first_bad.load() < n) {
    lookup.fail(op, first_bad.load());
  }
}

// Runs fn<float>() or fn<double>(): float64 logits are scored in float64, all others in float32.
template <class Fn>
auto dispatch_real(const Tensor& logits, const Fn& fn) {
  return dtype_of(logits) == ScalarType::Double ? fn.template operator()<double>()
                                                : fn.template operator()<float>();
}

}  // namespace rho_ext
