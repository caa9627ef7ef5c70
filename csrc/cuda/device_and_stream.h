// The device of a tensor and torch's stream there. The tests put another file in its place:
// tests/emulator/overrides/cuda/device_and_stream.h.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include <cstdint>

#include "common/tensor.h"

// torch declares it only beside CUDA's own headers, which this library does not include.
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);

namespace rho_ext {

// Makes the device of a tensor the current one until it is destroyed.
class DeviceAndStream {
 public:
  explicit DeviceAndStream(const Tensor& tensor)
      : device_(tensor.get_device_index()), guard_(device_) {
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream_));
  }
  int32_t device() const { return device_; }
  void* stream() const { return stream_; }

 private:
  int32_t device_;
  void* stream_ = nullptr;
  torch::stable::accelerator::DeviceGuard guard_;
};

}  // namespace rho_ext
