// The rows of logits (n, C) or (B, T, C), read without a copy.
#pragma once

#include "common/tensor.h"

namespace rho_ext {

// Row r is row r % length of sequence r / length. Logits (n, C), and all others with the same
// stride from each row to the next, are one sequence.
struct LogitsRows {
  int64_t count;
  int64_t classes;
  int64_t length;               // rows of a sequence
  int64_t stride;               // elements from row to row
  int64_t sequence_stride = 0;  // elements from sequence to sequence
  bool dense;                   // the classes are neighbours in memory

  // `logits` have two or three dimensions. Every question to a tensor is a call, so each is asked
  // once.
  explicit LogitsRows(const Tensor& logits) {
    const int64_t last = logits.dim() - 1;
    classes = logits.size(last);
    dense = classes == 1 || logits.stride(last) == 1;
    count = length = logits.size(last - 1);
    // The stride of a size-1 dimension is arbitrary, and using it could overflow.
    stride = length > 1 ? logits.stride(last - 1) : 0;
    if (last == 2) {
      add_sequences(logits.size(0), logits.stride(0));
    }
  }

 private:
  void add_sequences(int64_t sequences, int64_t between) {
    count = sequences * length;
    if (length == 1) {
      stride = sequences > 1 ? between : 0;
    } else if (sequences > 1 && between != length * stride) {
      sequence_stride = between;
      return;
    }
    length = count;
  }
};

}  // namespace rho_ext
