// The one device and stream of the emulator, in place of csrc/cuda/device_and_stream.h.
#pragma once

#include <cstdint>

#include "common/tensor.h"

namespace rho_ext {

class DeviceAndStream {
 public:
  explicit DeviceAndStream(const Tensor&) {}
  int32_t device() const { return 0; }
  void* stream() const { return nullptr; }
};

}  // namespace rho_ext
