// The only file that includes torch's stable headers, and the few words about tensors that they
// lack.
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

// Torch's numbers of dtypes stand in files and never change. Tensor::scalar_type() translates them
// through a dozen calls, Tensor::device() likewise: together they would cost more than a small op.
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

// Names as Python prints them: an error must read the same from C++ and from a fake kernel.
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

// A new tensor beside another one. torch::stable::new_empty would look its operator up by name and
// go through the dispatcher, which at small sizes costs more than the op itself.
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

inline constexpr int64_t kCacheLine = 64;

// Has the memory fetch what is read a little later, into the L2 cache: the core has room for few
// fetches into L1.
inline void fetch(const void* address) {
  constexpr int kIntoL2 = 2;
  __builtin_prefetch(address, 0, kIntoL2);
  // GCC drops calls of functions that do nothing but prefetch.
  asm volatile("");
}

// The values of a 1-D tensor, read without a copy.
template <class T>
struct Strided {
  const T* data;
  int64_t stride;

  const T& operator[](int64_t i) const { return data[i * stride]; }
};

// 1-D integer tensor, int64 or int32.
class IndexView {
 public:
  explicit IndexView(const Tensor& tensor)
      : data_(tensor.const_data_ptr()),
        stride_(tensor.stride(0)),
        wide_(dtype_of(tensor) == ScalarType::Long) {}

  int64_t operator[](int64_t i) const { return wide_ ? wide()[i] : narrow()[i]; }

  // Some values as int64: where they lie, if they lie so, or else `copy`.
  const int64_t* read(int64_t begin, int64_t count, int64_t* copy) const {
    if (wide_ && stride_ == 1) {
      return wide().data + begin;
    }
    auto copy_from = [&](auto values) {
      for (int64_t i = 0; i < count; ++i) {
        copy[i] = values[begin + i];
      }
      return copy;
    };
    return wide_ ? copy_from(wide()) : copy_from(narrow());
  }

  // Has the memory fetch some values.
  void fetch(int64_t begin, int64_t end) const {
    const int64_t step = stride_ * (wide_ ? 8 : 4);
    const char* const first = static_cast<const char*>(data_) + begin * step;
    const int64_t bytes = (end - begin) * step;
    for (int64_t at = 0; at < bytes; at += std::max(step, kCacheLine)) {
      rho_ext::fetch(first + at);
    }
  }

 private:
  Strided<int64_t> wide() const { return {static_cast<const int64_t*>(data_), stride_}; }
  Strided<int32_t> narrow() const { return {static_cast<const int32_t*>(data_), stride_}; }

  const void* data_;
  int64_t stride_;
  bool wide_;
};

// 1-D float32, float16 or bfloat16 tensor, whose values convert to float.
class FloatView {
 public:
  explicit FloatView(const Tensor& tensor)
      : data_(tensor.const_data_ptr()), stride_(tensor.stride(0)), dtype_(dtype_of(tensor)) {}

  // Calls fn(values) with the values in their type, so that a loop over them asks for it once.
  template <class Fn>
  void visit(const Fn& fn) const {
    using torch::headeronly::BFloat16;
    using torch::headeronly::Half;
    switch (dtype_) {
      case ScalarType::Half:
        return fn(Strided<Half>{static_cast<const Half*>(data_), stride_});
      case ScalarType::BFloat16:
        return fn(Strided<BFloat16>{static_cast<const BFloat16*>(data_), stride_});
      default:
        return fn(Strided<float>{static_cast<const float*>(data_), stride_});
    }
  }

  // Where a value lies, for any number: not to be read from.
  const void* address(int64_t i) const {
    const int64_t bytes = stride_ * (dtype_ == ScalarType::Float ? 4 : 2);
    return reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(data_) +
                                         static_cast<uintptr_t>(i) * static_cast<uintptr_t>(bytes));
  }

 private:
  const void* data_;
  int64_t stride_;
  ScalarType dtype_;
};

}  // namespace rho_ext
