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
        points_(il_ ? in.il->size(0) : 0) {}

  // Has the memory fetch what `read` will gather from the table: each value lies somewhere else,
  // and the core would wait for them. Into the L2 cache, because the core has room for few fetches
  // into L1. The ids are not checked yet, so the addresses may lie anywhere, which a prefetch does
  // not mind.
  void fetch(int64_t begin, int64_t end) const {
    if (!il_ || !ids_) {
      return;
    }
    il_->visit([&](auto table) {
      ids_->visit([&](auto ids) {
        for (int64_t row = begin; row < end; ++row) {
          const auto offset = static_cast<uint64_t>(ids[row]) *
                              static_cast<uint64_t>(table.stride) * sizeof(*table.data);
          constexpr int kIntoL2 = 2;
          __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(table.data) +
                                                           static_cast<uintptr_t>(offset)),
                             0, kIntoL2);
          // GCC drops calls of functions that do nothing but prefetch.
          asm volatile("");
        }
      });
    });
  }

  // Returns the first row that is out of range, or `end`. An ignored row has label -1 and any il.
  // The loops only note that something is wrong: where nothing is, no row costs a jump that depends
  // on it.
  int64_t read(int64_t begin, int64_t end, int64_t* label, float* il) const {
    const int64_t rows = end - begin;
    bool wrong = false;
    labels_.visit([&](auto labels) {
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t value = labels[begin + i];
        const bool ignored = value == ignore_index_;
        wrong |= !ignored & !below(classes_, value);
        label[i] = ignored ? -1 : value;
      }
    });
    if (!il_) {
      std::fill_n(il, rows, 0.0f);
    } else {
      il_->visit([&](auto table) {
        auto gather = [&](auto ids) {
          for (int64_t i = 0; i < rows; ++i) {
            const int64_t id = ids[begin + i];
            const bool known = below(points_, id);
            wrong |= !known & (label[i] >= 0);
            il[i] = known ? static_cast<float>(table[id]) : 0.0f;
          }
        };
        if (ids_) {
          ids_->visit(gather);
        } else {
          gather(RowNumbers{});
        }
      });
    }
    return wrong ? first_wrong(begin, end) : end;
  }

  [[noreturn]] void fail(const char* op, int64_t row) const {
    labels_.visit([&](auto labels) {
      if (labels[row] < 0 || labels[row] >= classes_) {
        index_error(op, ": labels must be in [0, ", classes_, ") or equal to ignore_index (",
                    ignore_index_, "), got ", labels[row], " at row ", row);
      }
    });
    ids_->visit([&](auto ids) {
      index_error(op, ": ids must be in [0, ", points_, "), the rows of il, got ", ids[row],
                  " at row ", row);
    });
    __builtin_unreachable();
  }

 private:
  // Without ids, the table has one value a row.
  struct RowNumbers {
    int64_t operator[](int64_t row) const { return row; }
  };

  static bool below(int64_t end, int64_t value) {
    return static_cast<uint64_t>(value) < static_cast<uint64_t>(end);
  }

  int64_t first_wrong(int64_t begin, int64_t end) const {
    int64_t row = begin;
    labels_.visit([&](auto labels) {
      auto search = [&](auto ids) {
        auto right = [&] {
          return labels[row] == ignore_index_ ||
                 (below(classes_, labels[row]) && (!il_ || below(points_, ids[row])));
        };
        while (row < end && right()) {
          ++row;
        }
      };
      if (ids_) {
        ids_->visit(search);
      } else {
        search(RowNumbers{});
      }
    });
    return row;
  }

  IndexView labels_;
  std::optional<IndexView> ids_;
  std::optional<FloatView> il_;
  int64_t ignore_index_;
  int64_t classes_;
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
      loss[i] = static_cast<Real>(loss_of(row, kMethod, classes, in.label_smoothing));
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
    BlockStats stats;
    lookup.fetch(begin, std::min(begin + kRowsPerCall, end));
    for (int64_t base = begin; base < end; base += kRowsPerCall) {
      const int64_t rows = std::min(kRowsPerCall, end - base);
      lookup.fetch(base + rows, std::min(base + rows + kRowsPerCall, end));
      const int64_t bad = lookup.read(base, base + rows, label, il);
      if (bad < base + rows) {
        keep_smaller(first_bad, bad);
        return;
      }
      kernel({data + base * row_bytes, stride, classes, base * stride, label, rows,
              in.label_smoothing != 0.0},
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
