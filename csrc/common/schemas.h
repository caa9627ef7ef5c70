// The schemas of all ops.
#pragma once

#include "common/tensor.h"

namespace rho_ext {

template <class Library>
void define_ops(Library& m) {
  // Return (values, indices, losses, invalid) of the top k rows: cpu/select.cpp, cuda/ops.cpp.
  m.def(
      "select(Tensor logits, Tensor labels, Tensor? ids, SymInt k, Tensor? il, int method, Tensor? "
      "bias, int ignore_index, float label_smoothing) -> (Tensor, Tensor, Tensor, Tensor)");
  // Return (scores, losses) of every row: cpu/score.cpp, cuda/ops.cpp.
  m.def(
      "score(Tensor logits, Tensor labels, Tensor? ids, Tensor? il, int method, Tensor? bias, "
      "int ignore_index, float label_smoothing) -> (Tensor, Tensor)");
  // On a GPU, with the caller's workspace, which is zero before and after: cuda/ops.cpp.
  m.def(
      "select.workspace(Tensor logits, Tensor labels, Tensor? ids, SymInt k, Tensor? il, int "
      "method, Tensor? bias, int ignore_index, float label_smoothing, *, Tensor(a!) workspace) -> "
      "(Tensor, Tensor, Tensor, Tensor)");
}

}  // namespace rho_ext
