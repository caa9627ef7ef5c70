// rho_ext::select and rho_ext::score on CUDA: check the arguments, allocate the outputs and launch
// one kernel on torch's stream.
#include "cuda/ops.h"

#include <map>
#include <mutex>
#include <tuple>
#include <utility>

#include "common/checks.h"
#include "cuda/choose_plan.h"
#include "cuda/device_and_stream.h"
#include "cuda/launch.h"

namespace rho_ext {
namespace {

// Throw if there is an error: the functions of ops.h return its text, or null.
void check(const char* error, const char* op, const Tensor& logits) {
  if (error != nullptr) {
    throw std::runtime_error(std::string(op) + ": CUDA failed for logits of shape " +
                             shape_text(logits) + ", " + dtype_name(logits) + ": " + error);
  }
}

FloatType float_type(const Tensor& tensor) {
  switch (dtype_of(tensor)) {
    case ScalarType::Half:
      return FloatType::kFloat16;
    case ScalarType::BFloat16:
      return FloatType::kBFloat16;
    default:
      return FloatType::kFloat32;
  }
}

IndexArray index_array(const Tensor& tensor) {
  return {tensor.const_data_ptr(), tensor.stride(0), dtype_of(tensor) == ScalarType::Long};
}

FloatArray float_array(const Tensor& tensor) {
  return {tensor.const_data_ptr(), tensor.stride(0), float_type(tensor)};
}

Batch batch_of(const ScoreArguments& in, const Tensor& logits, const LogitsRows& all) {
  Batch batch{};
  batch.logits = logits.const_data_ptr();
  batch.type = float_type(logits);
  batch.rows = all.count;
  batch.classes = all.classes;
  batch.length = all.length;
  batch.stride = all.stride;
  batch.sequence_stride = all.sequence_stride;
  batch.labels = index_array(in.labels);
  if (uses_il(in.method)) {
    batch.il = float_array(*in.il);
    batch.il_size = in.il->size(0);
    if (in.ids) {
      batch.ids = index_array(*in.ids);
    }
  }
  if (in.bias) {
    batch.bias = float_array(*in.bias);
  }
  batch.method = in.method;
  batch.ignore_index = in.ignore_index;
  batch.label_smoothing = in.label_smoothing;
  return batch;
}

Tensor zero_state(const char* op, const Tensor& logits, void* stream) {
  Tensor state = new_empty(logits, {static_cast<int64_t>(kStateBytes / 4)}, ScalarType::Int);
  check(set_zero(state.mutable_data_ptr(), kStateBytes, stream), op, logits);
  return state;
}

// Return the state of a stream. Calls share it, because launches on one stream run one after
// another. Null if the device has no free memory beyond what torch holds.
void* state_of_stream(const char* op, const Tensor& logits, const DeviceAndStream& target) {
  // Never freed: at exit CUDA may be gone already. Not torch's memory: torch.compile with
  // "reduce-overhead" first runs once with memory that belongs to the graph later.
  static auto& states = *new std::map<std::pair<int32_t, void*>, void*>;
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  void*& state = states[{target.device(), target.stream()}];
  if (state == nullptr && allocate(&state, kStateBytes) == nullptr) {
    const char* error = set_zero(state, kStateBytes, target.stream());
    state = error == nullptr ? state : nullptr;
    check(error, op, logits);
  }
  return state;
}

// Return the state for one launch. `own` keeps it alive if it is for this launch alone.
void* state_for(const char* op, const Tensor& logits, const DeviceAndStream& target,
                const Tensor* workspace, std::optional<Tensor>& own) {
  if (workspace != nullptr) {
    return workspace->mutable_data_ptr();
  }
  bool capturing = false;
  check(is_capturing(target.stream(), capturing), op, logits);
  if (!capturing) {
    if (void* state = state_of_stream(op, logits, target)) {
      return state;
    }
  }
  // Memory allocated during capture belongs to the graph, and the graph must set it to zero.
  own = zero_state(op, logits, target.stream());
  return own->mutable_data_ptr();
}

void check_workspace(const char* op, const Tensor& workspace, const Tensor& logits) {
  check_device(op, "workspace", workspace, logits);
  if (dtype_of(workspace) != ScalarType::Int || workspace.dim() != 1 ||
      !workspace.is_contiguous() || workspace.size(0) != static_cast<int64_t>(kStateBytes / 4)) {
    value_error(op, ": workspace must come from rho_ext.workspace(device), got ",
                dtype_name(workspace), " of shape ", shape_text(workspace));
  }
}

// Fill the outputs. `outputs.k` is negative for `score`.
void run(const char* op, const ScoreArguments& in, Outputs outputs, const DeviceAndStream& target,
         const Tensor* workspace) {
  LogitsRows all(in.logits);
  if (all.count == 0) {
    if (outputs.invalid != nullptr) {
      check(set_zero(outputs.invalid, sizeof(int32_t), target.stream()), op, in.logits);
    }
    return;
  }
  Tensor logits = in.logits;
  if (!all.dense) {
    logits = torch::stable::contiguous(logits);
    all = LogitsRows(logits);
  }
  DeviceLimits limits;
  check(device_limits(limits), op, logits);
  const Sizes sizes{all.count, all.classes, static_cast<int64_t>(logits.element_size()), outputs.k};
  const Plan plan = choose_plan(sizes, limits);
  std::optional<Tensor> own;
  void* state = plan.needs_state() ? state_for(op, logits, target, workspace, own) : nullptr;
  const Tensor scratch =
      new_empty(logits, {static_cast<int64_t>(plan.scratch_bytes / 8)}, ScalarType::Long);
  check(launch(batch_of(in, logits, all), outputs, plan, {state, scratch.mutable_data_ptr()},
               target.stream()),
        op, logits);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> select(const ScoreArguments& in, int64_t k,
                                                  const Tensor* workspace) {
  const int64_t n = check_arguments("select", in, kOnGpu);
  check_k("select", k, n);
  if (workspace != nullptr) {
    check_workspace("select", *workspace, in.logits);
  }
  const DeviceAndStream target(in.logits);
  Tensor values = new_empty(in.logits, {k}, ScalarType::Float);
  Tensor indices = new_empty(in.logits, {k}, ScalarType::Long);
  Tensor losses = new_empty(in.logits, {n}, ScalarType::Float);
  Tensor invalid = new_empty(in.logits, {}, ScalarType::Int);
  Outputs outputs{};
  outputs.losses = losses.mutable_data_ptr<float>();
  outputs.values = values.mutable_data_ptr<float>();
  outputs.indices = indices.mutable_data_ptr<int64_t>();
  outputs.invalid = invalid.mutable_data_ptr<int32_t>();
  outputs.k = k;
  run("select", in, outputs, target, workspace);
  return {values, indices, losses, invalid};
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> select_cuda(
    const Tensor& logits, const Tensor& labels, const std::optional<Tensor>& ids, int64_t k,
    const std::optional<Tensor>& il, int64_t method, const std::optional<Tensor>& bias,
    int64_t ignore_index, double label_smoothing) {
  return select({logits, labels, ids, il, check_method("select", method), bias, ignore_index,
                 label_smoothing},
                k, nullptr);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> select_workspace_cuda(
    const Tensor& logits, const Tensor& labels, const std::optional<Tensor>& ids, int64_t k,
    const std::optional<Tensor>& il, int64_t method, const std::optional<Tensor>& bias,
    int64_t ignore_index, double label_smoothing, const Tensor& workspace) {
  return select({logits, labels, ids, il, check_method("select", method), bias, ignore_index,
                 label_smoothing},
                k, &workspace);
}

std::tuple<Tensor, Tensor> score_cuda(const Tensor& logits, const Tensor& labels,
                                      const std::optional<Tensor>& ids,
                                      const std::optional<Tensor>& il, int64_t method,
                                      const std::optional<Tensor>& bias, int64_t ignore_index,
                                      double label_smoothing) {
  const ScoreArguments in{
      logits, labels, ids, il, check_method("score", method), bias, ignore_index, label_smoothing};
  const int64_t n = check_arguments("score", in, kOnGpu);
  const DeviceAndStream target(logits);
  Tensor scores = new_empty(logits, {n}, ScalarType::Float);
  Tensor losses = new_empty(logits, {n}, ScalarType::Float);
  Outputs outputs{};
  outputs.losses = losses.mutable_data_ptr<float>();
  outputs.scores = scores.mutable_data_ptr<float>();
  outputs.k = -1;
  run("score", in, outputs, target, nullptr);
  return {scores, losses};
}

}  // namespace rho_ext
