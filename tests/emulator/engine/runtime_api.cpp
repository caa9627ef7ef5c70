// The runtime API of a device that shares host memory and runs everything synchronously.
#include "runtime_api.h"

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <unordered_map>

#include "engine/grid.h"

namespace emulator {
namespace {

constexpr unsigned kMostThreads = 1024;
constexpr unsigned kMostThreadsZ = 64;
constexpr unsigned kMostBlocksYZ = 65535;

// The process has one. A launch holds the mutex, so launches run one after another.
struct Device {
  std::mutex mutex;
  Config config;
  Grid grid;
  std::unordered_map<const void*, StaticShared> kernels;
  cudaError_t last_error = cudaSuccess;
  std::string failure = "unspecified launch failure";

  const StaticShared& static_shared(const void* kernel) {
    const auto [found, is_new] = kernels.try_emplace(kernel);
    if (is_new) {
      found->second = static_shared_of(kernel);
    }
    return found->second;
  }
};

// Never freed: worker threads may outlive static objects.
Device& device() {
  static Device& instance = *new Device;
  return instance;
}

cudaError_t report(cudaError_t error) {
  if (error != cudaSuccess) {
    device().last_error = error;
  }
  return error;
}

bool is_cooperative(const cudaLaunchConfig_t& config) {
  bool cooperative = false;
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    if (config.attrs[i].id == cudaLaunchAttributeCooperative) {
      cooperative = config.attrs[i].val.cooperative != 0;
    }
  }
  return cooperative;
}

bool is_valid(const Launch& launch) {
  return launch.blocks() > 0 && launch.grid.y <= kMostBlocksYZ && launch.grid.z <= kMostBlocksYZ &&
         launch.threads() > 0 && launch.threads() <= kMostThreads &&
         launch.block.z <= kMostThreadsZ;
}

}  // namespace

cudaError_t occupancy(int* blocks, int threads, size_t dynamic_shared_bytes) {
  if (threads < 1 || threads > static_cast<int>(kMostThreads)) {
    return report(cudaErrorInvalidValue);
  }
  *blocks = dynamic_shared_bytes <= DynamicShared::kBytes ? 1 : 0;
  return cudaSuccess;
}

cudaError_t launch(const cudaLaunchConfig_t& config, const void* address, void (*call)(const void*),
                   const void* argument) {
  Device& gpu = device();
  std::lock_guard lock(gpu.mutex);
  Launch launch;
  launch.grid = config.gridDim;
  launch.block = config.blockDim;
  launch.dynamic_shared_bytes = config.dynamicSmemBytes;
  launch.cooperative = is_cooperative(config);
  launch.call = call;
  launch.argument = argument;
  launch.static_shared = gpu.static_shared(address);
  if (!is_valid(launch)) {
    return report(cudaErrorInvalidConfiguration);
  }
  if (launch.dynamic_shared_bytes > DynamicShared::kBytes) {
    return report(cudaErrorInvalidValue);
  }
  if (launch.cooperative && launch.blocks() > gpu.config.resident) {
    return report(cudaErrorCooperativeLaunchTooLarge);
  }
  const std::string failure = gpu.grid.run(launch, gpu.config);
  if (!failure.empty()) {
    gpu.failure = failure;
    return report(cudaErrorLaunchFailure);
  }
  return cudaSuccess;
}

}  // namespace emulator

using emulator::device;

extern "C" {

cudaError_t cudaGetLastError() {
  const cudaError_t error = device().last_error;
  device().last_error = cudaSuccess;
  return error;
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorLaunchFailure:
      return device().failure.c_str();
    case cudaErrorCooperativeLaunchTooLarge:
      return "too many blocks in cooperative launch";
  }
  return "unrecognized error code";
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = device().config.resident;
      return cudaSuccess;
    case cudaDevAttrCooperativeLaunch:
      *value = 1;
      return cudaSuccess;
  }
  return emulator::report(cudaErrorInvalidValue);
}

// Filled with garbage, like memory that was used before.
cudaError_t cudaMalloc(void** data, size_t bytes) {
  *data = std::malloc(bytes);
  if (*data == nullptr) {
    return emulator::report(cudaErrorInvalidValue);
  }
  std::memset(*data, 0xa5, bytes);
  return cudaSuccess;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }

cudaError_t cudaMemsetAsync(void* address, int value, size_t bytes, cudaStream_t) {
  std::memset(address, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

void emulator_configure(unsigned long long seed, int order, int resident, int parallel,
                        int yield_permille) {
  std::lock_guard lock(device().mutex);
  device().config = {seed, static_cast<emulator::Order>(order), resident, parallel != 0,
                     yield_permille};
}

}  // extern "C"
