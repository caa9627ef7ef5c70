// Every op schema. The kernels register themselves at the end of their own file.
#include "common/tensor.h"

STABLE_TORCH_LIBRARY(rho_ext, m) {
  // The k rows with the highest scores: (values, indices, losses, invalid). cpu/select.cpp
  m.def(
      "select(Tensor logits, Tensor labels, Tensor? ids, SymInt k, Tensor? il, int method, Tensor? "
      "bias, "
      "int ignore_index, float label_smoothing) -> (Tensor, Tensor, Tensor, Tensor)");
  // The score and the loss of every row: (scores, losses). cpu/score.cpp
  m.def(
      "score(Tensor logits, Tensor labels, Tensor? ids, Tensor? il, int method, Tensor? bias, "
      "int ignore_index, float label_smoothing) -> (Tensor, Tensor)");
}
