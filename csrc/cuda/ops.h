// The ops on CUDA tensors. The arguments are those of common/schemas.h.
#pragma once

#include <cstdint>
#include <optional>
#include <tuple>

#include "common/tensor.h"

namespace rho_ext {

std::tuple<Tensor, Tensor, Tensor, Tensor> select_cuda(
    const Tensor& logits, const Tensor& labels, const std::optional<Tensor>& ids, int64_t k,
    const std::optional<Tensor>& il, int64_t method, const std::optional<Tensor>& bias,
    int64_t ignore_index, double label_smoothing);

std::tuple<Tensor, Tensor, Tensor, Tensor> select_workspace_cuda(
    const Tensor& logits, const Tensor& labels, const std::optional<Tensor>& ids, int64_t k,
    const std::optional<Tensor>& il, int64_t method, const std::optional<Tensor>& bias,
    int64_t ignore_index, double label_smoothing, const Tensor& workspace);

std::tuple<Tensor, Tensor> score_cuda(const Tensor& logits, const Tensor& labels,
                                      const std::optional<Tensor>& ids,
                                      const std::optional<Tensor>& il, int64_t method,
                                      const std::optional<Tensor>& bias, int64_t ignore_index,
                                      double label_smoothing);

// Registers the ops with a library of torch's dispatcher.
template <class Library>
void implement_ops(Library& m) {
  m.impl("select", TORCH_BOX(&select_cuda));
  m.impl("select.workspace", TORCH_BOX(&select_workspace_cuda));
  m.impl("score", TORCH_BOX(&score_cuda));
}

}  // namespace rho_ext
