// The kernels. One launch scores every row of a batch and, for `select`, writes the top k.
#include <algorithm>
#include <type_traits>

#include "cuda/rows.cuh"
#include "cuda/top_k.cuh"

namespace rho_ext {
namespace {

// Two blocks of kMaxThreads on a multiprocessor leave 64 registers a thread. Kernels with moments
// need more registers.
template <class T, RowRegime kRegime, bool kNeedsMoments>
__global__ void __launch_bounds__(kMaxThreads, kNeedsMoments ? 1 : 2)
    select_kernel(const __grid_constant__ KernelParams params) {
  if constexpr (kRegime == RowRegime::kLaneGroups) {
    score_by_lane_groups<T, kNeedsMoments>(params);
  } else {
    score_by_slices<T, kNeedsMoments>(params);
  }
  const BlockGroup group{params.plan.top_k_stage == TopKStage::kGrid};
  if (!group.grid) {
    const bool sliced = kRegime == RowRegime::kSlices && params.plan.slices > 1;
    if (params.plan.top_k_stage == TopKStage::kNone && !sliced) {
      return;
    }
    if (!is_last_block(&params.state->ticket)) {
      return;
    }
    if constexpr (kRegime == RowRegime::kSlices) {
      if (sliced) {
        merge_slices<T, kNeedsMoments>(params);
      }
    }
    if (params.plan.top_k_stage == TopKStage::kNone) {
      return;
    }
  }
  group.sync();
  select_top(group, params);
}

using Kernel = void (*)(KernelParams);

template <class T>
Kernel kernel_for(RowRegime regime, bool needs_moments) {
  if (regime == RowRegime::kLaneGroups) {
    return needs_moments ? select_kernel<T, RowRegime::kLaneGroups, true>
                         : select_kernel<T, RowRegime::kLaneGroups, false>;
  }
  return needs_moments ? select_kernel<T, RowRegime::kSlices, true>
                       : select_kernel<T, RowRegime::kSlices, false>;
}

Kernel kernel_for(FloatType type, RowRegime regime, bool needs_moments) {
  switch (type) {
    case FloatType::kFloat16:
      return kernel_for<Float16>(regime, needs_moments);
    case FloatType::kBFloat16:
      return kernel_for<BFloat16>(regime, needs_moments);
    default:
      return kernel_for<float>(regime, needs_moments);
  }
}

// Return null or the text of an error, and clear an error that is not sticky.
const char* text_of(cudaError_t error) {
  if (error == cudaSuccess) {
    return nullptr;
  }
  cudaGetLastError();
  return cudaGetErrorString(error);
}

cudaError_t launch_kernel(Kernel kernel, const KernelParams& params, cudaStream_t stream) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = params.plan.top_k_stage == TopKStage::kGrid ? 1 : 0;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(params.plan.blocks));
  config.blockDim = dim3(static_cast<unsigned>(params.plan.threads));
  config.dynamicSmemBytes = params.plan.shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, params);
}

// Limit the blocks to those that run at a time: CUDA refuses a larger cooperative launch.
cudaError_t limit_blocks(Kernel kernel, Plan& plan) {
  int of_processor = 0;
  const cudaError_t error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(
      &of_processor, kernel, plan.threads, plan.shared_bytes);
  plan.blocks = std::min(plan.blocks, int64_t{of_processor} * plan.processors);
  return error;
}

}  // namespace

const char* device_limits(DeviceLimits& limits) {
  int device = 0;
  int cooperative = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&limits.processors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, device);
  }
  limits.cooperative = cooperative != 0;
  return text_of(error);
}

const char* launch(const Batch& batch, const Outputs& outputs, const Plan& plan,
                   const Workspace& workspace, void* stream) {
  char* scratch = static_cast<char*>(workspace.scratch);
  KernelParams params{};
  params.batch = batch;
  params.outputs = outputs;
  params.plan = plan;
  params.extra.entropy = batch.method == Method::kEntropy;
  params.extra.without_label = batch.method == Method::kGradNorm;
  params.extra.smoothing = batch.label_smoothing != 0.0;
  params.state = static_cast<State*>(workspace.state);
  params.keys = reinterpret_cast<uint32_t*>(scratch);
  params.partials = reinterpret_cast<RowSums*>(scratch + plan.partials);
  params.winners = reinterpret_cast<uint64_t*>(scratch + plan.winners);
  const bool needs_moments =
      params.extra.entropy || params.extra.without_label || params.extra.smoothing;
  const Kernel kernel = kernel_for(batch.type, plan.regime, needs_moments);
  const cudaStream_t cuda_stream = static_cast<cudaStream_t>(stream);
  if (plan.top_k_stage == TopKStage::kGrid) {
    cudaError_t error = limit_blocks(kernel, params.plan);
    if (error == cudaSuccess) {
      error = params.plan.blocks > 0 ? launch_kernel(kernel, params, cuda_stream)
                                     : cudaErrorCooperativeLaunchTooLarge;
    }
    if (error != cudaErrorCooperativeLaunchTooLarge) {
      return text_of(error);
    }
    // This process has only a part of the device. The last block alone is slower, but always runs.
    cudaGetLastError();
    params.plan = plan;
    params.plan.top_k_stage = TopKStage::kLastBlock;
  }
  return text_of(launch_kernel(kernel, params, cuda_stream));
}

const char* allocate(void** data, size_t bytes) {
  // In the default mode cudaMalloc fails while another thread captures a graph.
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  cudaError_t error = cudaThreadExchangeStreamCaptureMode(&mode);
  if (error == cudaSuccess) {
    error = cudaMalloc(data, bytes);
    cudaThreadExchangeStreamCaptureMode(&mode);
  }
  return text_of(error);
}

const char* set_zero(void* data, size_t bytes, void* stream) {
  return text_of(cudaMemsetAsync(data, 0, bytes, static_cast<cudaStream_t>(stream)));
}

const char* is_capturing(void* stream, bool& capturing) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  const char* error = text_of(cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &status));
  capturing = status != cudaStreamCaptureStatusNone;
  return error;
}

}  // namespace rho_ext
