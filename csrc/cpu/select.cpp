// rho_ext::select: score every row and return the top k.
#include <limits>
#include <memory>
#include <tuple>

#include "common/key.h"
#include "cpu/score_rows.h"
#include "cpu/top_keys.h"

namespace rho_ext {
namespace {

// Write the top k rows in descending order. Missing rows are -1 with value -inf.
template <class Real>
void write_top(const bits_t<Real>* scores, int64_t n, int64_t k, float* values, int64_t* indices) {
  top_keys<Real>(scores, n, k, [&](int64_t rank, key_t<Real> key) {
    const bool padding = key == kExcluded<Real>;
    values[rank] = padding ? -std::numeric_limits<float>::infinity()
                           : static_cast<float>(key_score<Real>(key));
    indices[rank] = padding ? -1 : key_row<Real>(key);
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> select_cpu(
    const Tensor& logits, const Tensor& labels, const std::optional<Tensor>& ids, int64_t k,
    const std::optional<Tensor>& il, int64_t method, const std::optional<Tensor>& bias,
    int64_t ignore_index, double label_smoothing) {
  ScoreArguments in{logits,       labels,         ids, il, check_method("select", method), bias,
                    ignore_index, label_smoothing};
  const int64_t n = check_arguments("select", in);
  check_k("select", k, n);
  Tensor values = new_empty(logits, {k}, ScalarType::Float);
  Tensor indices = new_empty(logits, {k}, ScalarType::Long);
  Tensor losses = new_empty(logits, {n}, ScalarType::Float);
  Tensor invalid = new_empty(logits, {}, ScalarType::Int);
  float* loss_out = losses.mutable_data_ptr<float>();
  std::atomic<int32_t> invalid_rows{0};
  dispatch_real(logits, [&]<class Real>() {
    auto ordered = std::make_unique_for_overwrite<bits_t<Real>[]>(static_cast<size_t>(n));
    score_rows<Real>(
        "select", in, [&](int64_t begin, int64_t rows, const Real* score, const Real* loss) {
          for (int64_t i = 0; i < rows; ++i) {
            loss_out[begin + i] = static_cast<float>(loss[i]);
          }
          const int64_t without_score =
              score_kernels<Real>().order(score, rows, ordered.get() + begin);
          if (without_score > 0) {
            invalid_rows.fetch_add(static_cast<int32_t>(without_score), std::memory_order_relaxed);
          }
        });
    write_top<Real>(ordered.get(), n, k, values.mutable_data_ptr<float>(),
                    indices.mutable_data_ptr<int64_t>());
  });
  *invalid.mutable_data_ptr<int32_t>() = invalid_rows.load();
  return {values, indices, losses, invalid};
}

}  // namespace
}  // namespace rho_ext

STABLE_TORCH_LIBRARY_IMPL(rho_ext, CPU, m) { m.impl("select", TORCH_BOX(&rho_ext::select_cpu)); }
