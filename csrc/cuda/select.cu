// The kernels: one launch scores every row of a batch and, for `select`, writes the k best.
#include <algorithm>
#include <type_traits>

#include "cuda/rows.cuh"
#include "cuda/top_k.cuh"

namespace rho_ext {
namespace {

// Two blocks of kMaxThreads a processor leave 64 registers a thread; the rarer methods take more.
template <class T, RowRegime kRegime, bool kFull>
__global__ void __launch_bounds__(kMaxThreads, kFull ? 1 : 2)
    select_kernel(const __grid_constant__ Arguments in) {
  if constexpr (kRegime == RowRegime::kTeams) {
    score_by_teams<T, kFull>(in);
  } else {
    score_by_slices<T, kFull>(in);
  }
  if (in.plan.tail == Tail::kGrid) {
    const Team all{blockIdx.x, gridDim.x};
    all.sync();
    select_top(all, in);
    return;
  }
  const bool sliced = kRegime == RowRegime::kSlices && in.plan.slices > 1;
  if (in.plan.tail == Tail::kNone && !sliced) {
    return;
  }
  if (!is_last_block(&in.state->ticket)) {
    return;
  }
  const Team alone{0, 1};
  if constexpr (kRegime == RowRegime::kSlices) {
    if (sliced) {
      merge_slices<T, kFull>(in);
      alone.sync();
    }
  }
  if (in.plan.tail == Tail::kLastBlock) {
    select_top(alone, in);
  }
}

using Kernel = void (*)(Arguments);

template <class T>
Kernel kernel_for(RowRegime regime, bool full) {
  if (regime == RowRegime::kTeams) {
    return full ? select_kernel<T, RowRegime::kTeams, true>
                : select_kernel<T, RowRegime::kTeams, false>;
  }
  return full ? select_kernel<T, RowRegime::kSlices, true>
              : select_kernel<T, RowRegime::kSlices, false>;
}

Kernel kernel_for(FloatType type, RowRegime regime, bool full) {
  switch (type) {
    case FloatType::kFloat16:
      return kernel_for<Float16>(regime, full);
    case FloatType::kBFloat16:
      return kernel_for<BFloat16>(regime, full);
    default:
      return kernel_for<float>(regime, full);
  }
}

// Null, or what CUDA says, which clears an error that does not outlast the launch.
const char* text_of(cudaError_t error) {
  if (error == cudaSuccess) {
    return nullptr;
  }
  cudaGetLastError();
  return cudaGetErrorString(error);
}

cudaError_t launch_kernel(Kernel kernel, const Arguments& in, cudaStream_t stream) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = in.plan.tail == Tail::kGrid ? 1 : 0;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(in.plan.blocks));
  config.blockDim = dim3(static_cast<unsigned>(in.plan.threads));
  config.dynamicSmemBytes = in.plan.shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, in);
}

// As many blocks as run at a time, or a cooperative launch would be refused.
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
  Arguments in{};
  in.batch = batch;
  in.outputs = outputs;
  in.plan = plan;
  in.full.entropy = batch.method == Method::kEntropy;
  in.full.without_label = batch.method == Method::kGradNorm;
  in.full.smoothing = batch.label_smoothing != 0.0;
  in.state = static_cast<State*>(workspace.state);
  in.keys = reinterpret_cast<uint32_t*>(scratch);
  in.partials = reinterpret_cast<RowSums*>(scratch + plan.partials);
  in.counts = reinterpret_cast<uint32_t*>(scratch + plan.counts);
  in.winners = reinterpret_cast<uint64_t*>(scratch + plan.winners);
  const bool full = in.full.entropy || in.full.without_label || in.full.smoothing;
  const Kernel kernel = kernel_for(batch.type, plan.regime, full);
  const cudaStream_t cuda_stream = static_cast<cudaStream_t>(stream);
  if (plan.tail == Tail::kGrid) {
    cudaError_t error = limit_blocks(kernel, in.plan);
    if (error == cudaSuccess) {
      error = in.plan.blocks > 0 ? launch_kernel(kernel, in, cuda_stream)
                                 : cudaErrorCooperativeLaunchTooLarge;
    }
    if (error != cudaErrorCooperativeLaunchTooLarge) {
      return text_of(error);
    }
    // Only a part of the device is there for this process: the last block alone is slower, and
    // always runs.
    cudaGetLastError();
    in.plan = plan;
    in.plan.tail = Tail::kLastBlock;
  }
  return text_of(launch_kernel(kernel, in, cuda_stream));
}

const char* allocate(void** data, size_t bytes) {
  // While another thread captures a graph, strict as captures are, the device would refuse.
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
