// Reads of labels, ids and irreducible losses.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "common/checks.h"
#include "cpu/isa.h"
#include "cpu/views.h"

namespace rho_ext {

template <class View>
std::optional<View> view_of(const std::optional<Tensor>& tensor) {
  return tensor ? std::optional<View>(*tensor) : std::nullopt;
}

// Prefetch labels and ids this many rows ahead. The hardware prefetcher often misses them among the
// logits and the random reads of the table.
inline constexpr int64_t kRowsAhead = 4 * kRowsPerCall;

// Reads and checks the labels, ids and irreducible losses of at most kRowsPerCall rows at a time.
class Lookup {
 public:
  Lookup(const ScoreArguments& in, const LogitsRows& logits)
      : labels_(in.labels),
        ids_(view_of<IndexView>(in.ids)),
        il_(uses_il(in.method) ? view_of<FloatView>(in.il) : std::nullopt),
        ignore_index_(in.ignore_index),
        classes_(logits.classes),
        rows_(logits.count),
        il_size_(il_ ? in.il->size(0) : 0) {}

  // Prefetch the labels and ids of at most `rows` rows.
  void prefetch(int64_t begin, int64_t rows) const {
    const int64_t end = std::min(begin + rows, rows_);
    labels_.prefetch(begin, end);
    if (il_ && ids_) {
      ids_->prefetch(begin, end);
    }
  }

  // Return the table reads to prefetch for the rows in [begin, end). Without ids it is always the
  // same address. `copy` has room for kRowsPerCall ids.
  ILPrefetch il_prefetch(int64_t begin, int64_t end, int64_t* copy) const {
    if (!il_ || !ids_) {
      return {this, 0, copy};
    }
    const int64_t rows = end - begin;
    const int64_t* ids = ids_->read(begin, rows, copy);
    if (rows < kRowsPerCall) {
      std::copy_n(ids, ids == copy ? 0 : rows, copy);
      std::fill(copy + rows, copy + kRowsPerCall, 0);
      ids = copy;
    }
    return {il_->data(), il_->step(), ids};
  }

  // Return the first row that is out of range, or `end`. An ignored row gets label -1 and any il.
  int64_t read(int64_t begin, int64_t end, int64_t* label, float* il) const {
    const RowKernels& kernels = row_kernels();
    const int64_t rows = end - begin;
    int64_t copy[kRowsPerCall];
    bool right =
        kernels.check_labels(labels_.read(begin, rows, copy), rows, classes_, ignore_index_, label);
    if (!il_) {
      std::fill_n(il, rows, 0.0f);
    } else if (!ids_) {
      // `il` has one value a row.
      il_->visit([&](auto table) {
        for (int64_t i = 0; i < rows; ++i) {
          il[i] = static_cast<float>(table[begin + i]);
        }
      });
    } else {
      int64_t id[kRowsPerCall];
      right &= kernels.check_ids(ids_->read(begin, rows, copy), rows, il_size_, label, id);
      // An empty table has no id 0.
      const int64_t readable = il_size_ > 0 ? rows : 0;
      il_->visit([&](auto table) {
        for (int64_t i = 0; i < readable; ++i) {
          il[i] = static_cast<float>(table[id[i]]);
        }
      });
    }
    return right ? end : first_wrong(begin, end);
  }

  [[noreturn]] void fail(const char* op, int64_t row) const {
    const int64_t label = labels_[row];
    if (label < 0 || label >= classes_) {
      value_error<std::out_of_range>(op, ": labels must be in [0, ", classes_,
                                     ") or equal to ignore_index (", ignore_index_, "), got ",
                                     label, " at row ", row);
    }
    value_error<std::out_of_range>(op, ": ids must be in [0, ", il_size_, "), the rows of il, got ",
                                   (*ids_)[row], " at row ", row);
  }

 private:
  bool is_right(int64_t row) const {
    const auto below = [](int64_t end, int64_t value) { return value >= 0 && value < end; };
    const int64_t label = labels_[row];
    return label == ignore_index_ ||
           (below(classes_, label) && (!il_ || !ids_ || below(il_size_, (*ids_)[row])));
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
  int64_t il_size_;
};

}  // namespace rho_ext
