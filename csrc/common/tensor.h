// Torch's stable headers, and the functions on tensors that they lack.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>

namespace rho_ext {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Read the dtype number directly: torch stores these numbers in files, so they never change.
// Tensor::scalar_type() and Tensor::device() make a dozen calls, which cost more than a small op.
inline ScalarType dtype_of(const Tensor& tensor) {
  int32_t number = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &number));
  return static_cast<ScalarType>(number);
}

struct DeviceNumber {
  int32_t type = 0;
  int32_t index = 0;

  bool operator==(const DeviceNumber&) const = default;
};

inline DeviceNumber device_of(const Tensor& tensor) {
  DeviceNumber device;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(tensor.get(), &device.type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(tensor.get(), &device.index));
  return device;
}

// Return the name that Python prints: errors of C++ and of fake kernels must be the same.
inline std::string dtype_name(const Tensor& tensor) {
  using enum ScalarType;
  static constexpr std::pair<ScalarType, const char*> kNames[] = {{Float, "float32"},
                                                                  {Double, "float64"},
                                                                  {Half, "float16"},
                                                                  {Long, "int64"},
                                                                  {Int, "int32"},
                                                                  {Short, "int16"},
                                                                  {Char, "int8"},
                                                                  {Byte, "uint8"},
                                                                  {ComplexFloat, "complex64"},
                                                                  {ComplexDouble, "complex128"},
                                                                  {ComplexHalf, "complex32"}};
  const ScalarType dtype = dtype_of(tensor);
  for (const auto& [other, name] : kNames) {
    if (dtype == other) {
      return name;
    }
  }
  std::string name = torch::headeronly::toString(dtype);
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  return name;
}

inline std::string shape_text(const Tensor& tensor) {
  std::string text = "(";
  for (int64_t dim = 0; dim < tensor.dim(); ++dim) {
    text += (dim == 0 ? "" : ", ") + std::to_string(tensor.size(dim));
  }
  return text + (tensor.dim() == 1 ? ",)" : ")");
}

// Return a new contiguous tensor on the device of `like`. torch::stable::new_empty looks its
// operator up by name and dispatches, which at small sizes costs more than the op itself.
inline Tensor new_empty(const Tensor& like, std::initializer_list<int64_t> shape,
                        ScalarType dtype) {
  const int64_t stride = 1;
  const DeviceNumber device = device_of(like);
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.begin(), &stride,
                               static_cast<int32_t>(dtype), device.type, device.index, &handle));
  return Tensor(handle);
}

}  // namespace rho_ext
