// rho_ext::select and rho_ext::score on CUDA: checks, outputs, memory and stream around one launch.
// With RHO_EMULATED, for the tests: the same ops as rho_emulated, on CPU tensors.
#include <map>
#include <mutex>
#include <tuple>
#include <utility>

#include "common/checks.h"
#include "cuda/launch.h"

#ifdef RHO_EMULATED
#include "common/schemas.h"
#else
#include <torch/csrc/stable/accelerator.h>
// torch declares it only beside CUDA's own headers, which this file does without.
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);
#endif

namespace rho_ext {
namespace {

ForcedPlan forced_plan;

// The device of a batch, made the current one, and the stream that torch uses there.
class Place {
 public:
#ifdef RHO_EMULATED
  explicit Place(const Tensor&) {}
#else
  explicit Place(const Tensor& logits) : device_(logits.get_device_index()), guard_(device_) {
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream_));
  }
#endif
  int32_t device() const { return device_; }
  void* stream() const { return stream_; }

 private:
  int32_t device_ = 0;
  void* stream_ = nullptr;
#ifndef RHO_EMULATED
  torch::stable::accelerator::DeviceGuard guard_;
#endif
};

[[noreturn]] void cuda_error(const char* op, const Tensor& logits, const char* what) {
  throw std::runtime_error(std::string(op) + ": CUDA failed for logits of shape " +
                           shape_text(logits) + ", " + dtype_name(logits) + ": " + what);
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

Batch batch_of(const ScoreArguments& in, const Tensor& logits) {
  Batch batch{};
  batch.logits = logits.const_data_ptr();
  batch.type = float_type(logits);
  batch.rows = logits.size(0);
  batch.classes = logits.size(1);
  batch.stride = logits.stride(0);
  batch.labels = index_array(in.labels);
  if (uses_il(in.method)) {
    batch.il = float_array(*in.il);
    batch.points = in.il->size(0);
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
  if (const char* error = set_zero(state.mutable_data_ptr(), kStateBytes, stream)) {
    cuda_error(op, logits, error);
  }
  return state;
}

// The state of a stream, kept from call to call: launches on one stream follow each other. Null
// where the device has no memory for it but what torch holds.
void* state_of_stream(const char* op, const Tensor& logits, const Place& place) {
  // Never freed: when the process ends, CUDA may be gone before them. Not torch's memory: before it
  // captures, torch.compile("reduce-overhead") runs once with memory that is the graph's later on.
  static auto& states = *new std::map<std::pair<int32_t, void*>, void*>;
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  void*& state = states[{place.device(), place.stream()}];
  if (state == nullptr && allocate(&state, kStateBytes) == nullptr) {
    if (const char* error = set_zero(state, kStateBytes, place.stream())) {
      state = nullptr;
      cuda_error(op, logits, error);
    }
  }
  return state;
}

// The state for one launch. `own` keeps it alive, where it is for this launch alone.
void* state_for(const char* op, const Tensor& logits, const Place& place, const Tensor* workspace,
                std::optional<Tensor>& own) {
  if (workspace != nullptr) {
    return workspace->mutable_data_ptr();
  }
  bool capturing = false;
  if (const char* error = is_capturing(place.stream(), capturing)) {
    cuda_error(op, logits, error);
  }
  if (!capturing) {
    if (void* state = state_of_stream(op, logits, place)) {
      return state;
    }
  }
  // What is allocated while capturing belongs to the graph, and the graph must set it to zero.
  own = zero_state(op, logits, place.stream());
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

// Fills the outputs. `outputs.k` is negative for `score`.
void run(const char* op, const ScoreArguments& in, Outputs outputs, const Place& place,
         const Tensor* workspace) {
  if (in.logits.size(0) == 0) {
    if (outputs.invalid != nullptr) {
      if (const char* error = set_zero(outputs.invalid, sizeof(int32_t), place.stream())) {
        cuda_error(op, in.logits, error);
      }
    }
    return;
  }
  const Tensor logits = in.logits.size(1) == 1 || in.logits.stride(1) == 1
                            ? in.logits
                            : torch::stable::contiguous(in.logits);
  DeviceLimits limits;
  if (const char* error = device_limits(limits)) {
    cuda_error(op, logits, error);
  }
  const Sizes sizes{logits.size(0), logits.size(1), static_cast<int64_t>(logits.element_size()),
                    outputs.k};
  const Plan plan = make_plan(sizes, limits, forced_plan);
  std::optional<Tensor> own;
  void* state = plan.needs_state() ? state_for(op, logits, place, workspace, own) : nullptr;
  const Tensor scratch =
      new_empty(logits, {static_cast<int64_t>(plan.scratch_bytes / 8)}, ScalarType::Long);
  if (const char* error = launch(batch_of(in, logits), outputs, plan,
                                 {state, scratch.mutable_data_ptr()}, place.stream())) {
    cuda_error(op, logits, error);
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> select(const ScoreArguments& in, int64_t k,
                                                  const Tensor* workspace) {
  check_arguments("select", in, kOnGpu);
  check_k("select", k, in.logits.size(0));
  if (workspace != nullptr) {
    check_workspace("select", *workspace, in.logits);
  }
  const Place place(in.logits);
  Tensor values = new_empty(in.logits, {k}, ScalarType::Float);
  Tensor indices = new_empty(in.logits, {k}, ScalarType::Long);
  Tensor losses = new_empty(in.logits, {in.logits.size(0)}, ScalarType::Float);
  Tensor invalid = new_empty(in.logits, {}, ScalarType::Int);
  Outputs outputs{};
  outputs.losses = losses.mutable_data_ptr<float>();
  outputs.values = values.mutable_data_ptr<float>();
  outputs.indices = indices.mutable_data_ptr<int64_t>();
  outputs.invalid = invalid.mutable_data_ptr<int32_t>();
  outputs.k = k;
  run("select", in, outputs, place, workspace);
  return {values, indices, losses, invalid};
}

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
  check_arguments("score", in, kOnGpu);
  const Place place(logits);
  Tensor scores = new_empty(logits, {logits.size(0)}, ScalarType::Float);
  Tensor losses = new_empty(logits, {logits.size(0)}, ScalarType::Float);
  Outputs outputs{};
  outputs.losses = losses.mutable_data_ptr<float>();
  outputs.scores = scores.mutable_data_ptr<float>();
  outputs.k = -1;
  run("score", in, outputs, place, nullptr);
  return {scores, losses};
}

}  // namespace
}  // namespace rho_ext

// For the tests, so that small inputs reach every path: see ForcedPlan. Zeros undo it.
extern "C" __attribute__((visibility("default"))) void rho_ext_force_plan(
    int32_t regime, int32_t tail, int32_t threads, int32_t blocks, int32_t slices,
    int32_t sort_tile) {
  rho_ext::forced_plan = {regime, tail, threads, blocks, slices, sort_tile};
}

#ifdef RHO_EMULATED
STABLE_TORCH_LIBRARY(rho_emulated, m) { rho_ext::define_ops(m); }
STABLE_TORCH_LIBRARY_IMPL(rho_emulated, CPU, m) {
#else
STABLE_TORCH_LIBRARY_IMPL(rho_ext, CUDA, m) {
#endif
  m.impl("select", TORCH_BOX(&rho_ext::select_cuda));
  m.impl("select.workspace", TORCH_BOX(&rho_ext::select_workspace_cuda));
  m.impl("score", TORCH_BOX(&rho_ext::score_cuda));
}
