// Views of 1-D tensors, read without a copy.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/tensor.h"
#include "cpu/prefetch.h"

namespace rho_ext {

template <class T>
struct Strided {
  const T* data;
  int64_t stride;

  const T& operator[](int64_t i) const { return data[i * stride]; }
};

// The stride of a size-1 dimension is arbitrary, and using it could overflow.
inline int64_t stride_of(const Tensor& tensor) { return tensor.size(0) > 1 ? tensor.stride(0) : 1; }

// 1-D integer tensor, int64 or int32.
class IndexView {
 public:
  explicit IndexView(const Tensor& tensor)
      : data_(tensor.const_data_ptr()),
        stride_(stride_of(tensor)),
        wide_(dtype_of(tensor) == ScalarType::Long) {}

  int64_t operator[](int64_t i) const { return wide_ ? wide()[i] : narrow()[i]; }

  // Return `count` values as int64: their address if they are contiguous int64, else a copy in
  // `copy`.
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

  // Prefetch the values in [begin, end).
  void prefetch(int64_t begin, int64_t end) const {
    const int64_t step = stride_ * (wide_ ? 8 : 4);
    const char* const first = static_cast<const char*>(data_) + begin * step;
    const int64_t bytes = (end - begin) * step;
    for (int64_t at = 0; at < bytes; at += std::max(step, kCacheLine)) {
      prefetch_to_l2(first + at);
    }
  }

 private:
  Strided<int64_t> wide() const { return {static_cast<const int64_t*>(data_), stride_}; }
  Strided<int32_t> narrow() const { return {static_cast<const int32_t*>(data_), stride_}; }

  const void* data_;
  int64_t stride_;
  bool wide_;
};

// 1-D float32, float16 or bfloat16 tensor.
class FloatView {
 public:
  explicit FloatView(const Tensor& tensor)
      : data_(tensor.const_data_ptr()), stride_(stride_of(tensor)), dtype_(dtype_of(tensor)) {}

  // Call fn(values) with the values in their own type, so that a loop dispatches once.
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

  const void* data() const { return data_; }

  // Return the distance of neighbouring values in bytes.
  int64_t step() const { return stride_ * (dtype_ == ScalarType::Float ? 4 : 2); }

 private:
  const void* data_;
  int64_t stride_;
  ScalarType dtype_;
};

}  // namespace rho_ext
