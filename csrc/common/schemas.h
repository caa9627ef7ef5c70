// Every op schema.
#pragma once

#include "common/tensor.h"

namespace rho_ext {

template <class Library>
void define_ops(Library& m) {
  // The k rows with the highest scores: (values, indices, losses, invalid). select.cpp, ops.cpp
  m.def(
      "select(Tensor logits, Tensor labels, Tensor? ids, SymInt k, Tensor? il, int method, Tensor? "
      "bias, int ignore_index, float label_smoothing) -> (Tensor, Tensor, Tensor, Tensor)");
  // The score and the loss of every row: (scores, losses). score.cpp, ops.cpp
  m.def(
      "score(Tensor logits, Tensor labels, Tensor? ids, Tensor? il, int method, Tensor? bias, "
      "int ignore_index, float label_smoothing) -> (Tensor, Tensor)");
  // On a GPU, with a workspace of the caller's that is zero before and after. cuda/ops.cpp
  m.def(
      "select.workspace(Tensor logits, Tensor labels, Tensor? ids, SymInt k, Tensor? il, int "
      "method, Tensor? bias, int ignore_index, float label_smoothing, *, Tensor(a!) workspace) -> "
      "(Tensor, Tensor, Tensor, Tensor)");
}

}  // namespace rho_ext
