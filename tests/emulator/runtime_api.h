// The part of the CUDA runtime API that launch code uses, with the toolkit's names and numbers.
#pragma once

#include <cstddef>
#include <tuple>
#include <utility>

#include "device/vector_types.h"

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719,
  cudaErrorCooperativeLaunchTooLarge = 720,
};

using cudaStream_t = struct CUstream_st*;

enum cudaLaunchAttributeID {
  cudaLaunchAttributeIgnore = 0,
  cudaLaunchAttributeCooperative = 2,
};
union cudaLaunchAttributeValue {
  char pad[64];
  int cooperative;
};
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  cudaLaunchAttributeValue val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};

enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrCooperativeLaunch = 95,
};

enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone = 0 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeRelaxed = 2 };

extern "C" {
cudaError_t cudaGetLastError();
// Return the message of the last launch failure.
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaMalloc(void** data, size_t bytes);
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode);
cudaError_t cudaMemsetAsync(void* address, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status);

// Configure the next launches. order: 0 forward, 1 reverse, 2 random. resident: blocks in flight,
// which is the number of multiprocessors that the device reports. parallel: 1 if blocks run at the
// same time. yield_permille: how often an atomic lets others run.
void emulator_configure(unsigned long long seed, int order, int resident, int parallel,
                        int yield_permille);
}

namespace emulator {

cudaError_t occupancy(int* blocks, int threads, size_t dynamic_shared_bytes);
cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, void (*call)(const void*),
                   const void* argument);

template <class... Parameters>
const void* address_of(void (*kernel)(Parameters...)) {
  return reinterpret_cast<const void*>(kernel);
}

}  // namespace emulator

template <class... Parameters>
inline cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks,
                                                                 void (*)(Parameters...),
                                                                 int threads,
                                                                 size_t dynamic_shared_bytes) {
  return emulator::occupancy(blocks, threads, dynamic_shared_bytes);
}

template <class... Parameters, class... Arguments>
inline cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config,
                                      void (*kernel)(Parameters...), Arguments&&... arguments) {
  const std::tuple<Parameters...> parameters(
      static_cast<Parameters>(std::forward<Arguments>(arguments))...);
  // Every thread gets its own copy of the parameters.
  const auto call = [kernel, &parameters] { std::apply(kernel, parameters); };
  return emulator::launch(
      *config, emulator::address_of(kernel),
      [](const void* body) { (*static_cast<const decltype(call)*>(body))(); }, &call);
}
