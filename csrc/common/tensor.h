// Torch's stable headers, and the functions on tensors that they lack.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cctype>
#include <cstdint>
#include <initializer_list>
#include <string>

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
  switch (dtype_of(tensor)) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Short:
      return "int16";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Bool:
      return "bool";
    case ScalarType::ComplexFloat:
      return "complex64";
    case ScalarType::ComplexDouble:
      return "complex128";
    case ScalarType::ComplexHalf:
      return "complex32";
    default: {
      std::string name = torch::headeronly::toString(dtype_of(tensor));
      for (char& letter : name) {
        letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
      }
      return name;
    }
  }
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
