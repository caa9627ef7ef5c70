// The rows of logits (n, C) or (B, T, C), read without a copy.
#pragma once

#include "common/tensor.h"

namespace rho_ext {

inline int64_t classes_of(const Tensor& logits) { return logits.size(logits.dim() - 1); }

inline int64_t rows_of(const Tensor& logits) {
  return logits.dim() == 3 ? logits.size(0) * logits.size(1) : logits.size(0);
}

// Row r is row r % length of sequence r / length. Logits (n, C), and all others with the same
// stride from each row to the next, are one sequence.
struct LogitsRows {
  int64_t count;
  int64_t classes;
  int64_t length;           // rows of a sequence
  int64_t stride;           // elements from row to row
  int64_t sequence_stride;  // elements from sequence to sequence

  explicit LogitsRows(const Tensor& logits)
      : count(rows_of(logits)),
        classes(classes_of(logits)),
        length(count),
        // The stride of a size-1 dimension is arbitrary, and using it could overflow.
        stride(logits.size(logits.dim() - 2) > 1 ? logits.stride(logits.dim() - 2) : 0),
        sequence_stride(0) {
    if (logits.dim() < 3 || logits.size(0) == 1) {
      return;
    }
    if (logits.size(1) == 1) {
      stride = logits.stride(0);
    } else if (logits.stride(0) != logits.size(1) * stride) {
      length = logits.size(1);
      sequence_stride = logits.stride(0);
    }
  }
};

// Return logits whose classes are neighbours in memory: the same, else a copy.
inline Tensor with_dense_rows(const Tensor& logits) {
  return classes_of(logits) == 1 || logits.stride(logits.dim() - 1) == 1
             ? logits
             : torch::stable::contiguous(logits);
}

}  // namespace rho_ext
