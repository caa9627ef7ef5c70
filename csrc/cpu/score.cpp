// rho_ext::score: return the score and the loss of every row.
#include <tuple>

#include "cpu/score_rows.h"

namespace rho_ext {
namespace {

std::tuple<Tensor, Tensor> score_cpu(const Tensor& logits, const Tensor& labels,
                                     const std::optional<Tensor>& ids,
                                     const std::optional<Tensor>& il, int64_t method,
                                     const std::optional<Tensor>& bias, int64_t ignore_index,
                                     double label_smoothing) {
  ScoreArguments in{logits,       labels,         ids, il, check_method("score", method), bias,
                    ignore_index, label_smoothing};
  const int64_t n = check_arguments("score", in);
  Tensor scores = new_empty(logits, {n}, ScalarType::Float);
  Tensor losses = new_empty(logits, {n}, ScalarType::Float);
  float* score_out = scores.mutable_data_ptr<float>();
  float* loss_out = losses.mutable_data_ptr<float>();
  dispatch_real(logits, [&]<class Real>() {
    score_rows<Real>("score", in,
                     [=](int64_t begin, int64_t rows, const Real* score, const Real* loss) {
                       for (int64_t i = 0; i < rows; ++i) {
                         score_out[begin + i] = static_cast<float>(score[i]);
                         loss_out[begin + i] = static_cast<float>(loss[i]);
                       }
                     });
  });
  return {scores, losses};
}

}  // namespace
}  // namespace rho_ext

STABLE_TORCH_LIBRARY_IMPL(rho_ext, CPU, m) { m.impl("score", TORCH_BOX(&rho_ext::score_cpu)); }
