// What any custom op of torch costs before it does anything: one with the schema and the results of
// rho_ext::select, and the smallest that returns a tensor. Built by cheapest.py.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <tuple>

namespace {

using at::Tensor;

std::tuple<Tensor, Tensor, Tensor, Tensor> same_schema(const Tensor& logits, const Tensor&,
                                                       const std::optional<Tensor>&, c10::SymInt k,
                                                       const std::optional<Tensor>&, int64_t,
                                                       const std::optional<Tensor>&, int64_t,
                                                       double) {
  const int64_t n = logits.size(0);
  const int64_t rows = k.expect_int();
  const auto options = logits.options();
  return {at::empty({rows}, options.dtype(at::kFloat)), at::empty({rows}, options.dtype(at::kLong)),
          at::empty({n}, options.dtype(at::kFloat)), at::empty({}, options.dtype(at::kInt))};
}

Tensor smallest(const Tensor& x) { return at::empty({1}, x.options()); }

}  // namespace

TORCH_LIBRARY(rho_bench, m) {
  m.def(
      "same_schema(Tensor logits, Tensor labels, Tensor? ids, SymInt k, Tensor? il, int method, "
      "Tensor? bias, int ignore_index, float label_smoothing) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("smallest(Tensor x) -> Tensor");
}

TORCH_LIBRARY_IMPL(rho_bench, CPU, m) {
  m.impl("same_schema", &same_schema);
  m.impl("smallest", &smallest);
}

TORCH_LIBRARY_IMPL(rho_bench, CUDA, m) {
  m.impl("same_schema", &same_schema);
  m.impl("smallest", &smallest);
}
