// Check the arguments of select and score, for all backends. rho_ext/_meta.py has the same checks
// with the same texts in the same order; tests/ops/test_bad_inputs.py compares them.
#pragma once

#include <optional>
#include <sstream>
#include <stdexcept>

#include "common/logits_rows.h"
#include "common/score.h"
#include "common/tensor.h"

namespace rho_ext {

// A key holds the row in 32 bits, and `invalid` counts rows in an int32.
inline constexpr int64_t kMaxRows = int64_t{1} << 31;

struct ScoreArguments {
  const Tensor& logits;
  const Tensor& labels;
  const std::optional<Tensor>& ids;
  const std::optional<Tensor>& il;
  Method method;
  const std::optional<Tensor>& bias;
  int64_t ignore_index;
  double label_smoothing;
};

// torch turns these into ValueError and IndexError; STD_TORCH_CHECK only gives RuntimeError.
template <class Error = std::invalid_argument, class... Parts>
[[noreturn]] void value_error(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw Error(text.str());
}

inline void check_device(const char* op, const char* name, const Tensor& tensor,
                         const Tensor& logits) {
  if (device_of(tensor) != device_of(logits)) {
    value_error(op, ": ", name, " must be on the device of logits; move it with ", name,
                ".to(logits.device)");
  }
}

// Of logits (B, T, C), `flat` of rho_ext/_meta.py gives the op what is (B, T) as (B * T,).
inline void check_length(const char* op, const char* name, const Tensor& tensor, int64_t n,
                         const Tensor& logits) {
  if (tensor.dim() != 1 || tensor.size(0) != n) {
    std::ostringstream sequences;
    if (logits.dim() == 3) {
      sequences << "(" << logits.size(0) << ", " << logits.size(1) << ") or ";
    }
    value_error(op, ": ", name, " must have shape ", sequences.str(), "(", n, ",), got ",
                shape_text(tensor));
  }
}

inline void check_index(const char* op, const char* name, const Tensor& tensor) {
  if (dtype_of(tensor) != ScalarType::Long && dtype_of(tensor) != ScalarType::Int) {
    value_error(op, ": ", name, " must be int64 or int32, got ", dtype_name(tensor));
  }
}

inline void check_il(const char* op, const ScoreArguments& in, int64_t n) {
  if (!in.il) {
    if (uses_il(in.method)) {
      value_error(op, ": method '", kMethodNames[static_cast<int64_t>(in.method)],
                  "' needs il; pass il=table or activate one with rho_ext.use_il(table)");
    }
    return;
  }
  check_device(op, "il", *in.il, in.logits);
  if (in.ids) {
    if (in.il->dim() != 1) {
      value_error(op, ": il must have shape (N,), got ", shape_text(*in.il));
    }
  } else {
    check_length(op, "il", *in.il, n, in.logits);
  }
  ScalarType dtype = dtype_of(*in.il);
  if (dtype != ScalarType::Float && dtype != ScalarType::Half && dtype != ScalarType::BFloat16) {
    value_error(op, ": il must be float32, float16 or bfloat16, got ", dtype_name(*in.il));
  }
}

// The GPU computes in float32 and counts classes in 32 bits.
enum Backend { kOnCpu, kOnGpu };
inline constexpr int64_t kMaxGpuClasses = int64_t{1} << 30;

inline void check_gpu(const char* op, const ScoreArguments& in, int64_t classes) {
  if (dtype_of(in.logits) == ScalarType::Double) {
    value_error(
        op,
        ": logits on a GPU must be float32, float16 or bfloat16, got float64, which only the "
        "CPU computes; convert them with logits.float()");
  }
  if (classes > kMaxGpuClasses) {
    value_error(op, ": logits on a GPU must have at most ", kMaxGpuClasses, " classes, got ",
                classes);
  }
}

// Return the number of rows.
inline int64_t check_arguments(const char* op, const ScoreArguments& in, Backend backend = kOnCpu) {
  const int64_t dimensions = in.logits.dim();
  if (dimensions != 2 && dimensions != 3) {
    value_error(op, ": logits must have shape (n, C) or (B, T, C), got ", shape_text(in.logits));
  }
  ScalarType dtype = dtype_of(in.logits);
  if (dtype != ScalarType::Float && dtype != ScalarType::Half && dtype != ScalarType::BFloat16 &&
      dtype != ScalarType::Double) {
    value_error(op, ": logits must be float32, float16, bfloat16 or float64, got ",
                dtype_name(in.logits));
  }
  const int64_t classes = in.logits.size(dimensions - 1);
  if (classes == 0) {
    value_error(op, ": logits must have at least one class, got ", shape_text(in.logits));
  }
  if (backend == kOnGpu) {
    check_gpu(op, in, classes);
  }
  const int64_t n = in.logits.size(0) * (dimensions == 3 ? in.logits.size(1) : 1);
  if (n >= kMaxRows) {
    value_error(op, ": logits must have fewer than ", kMaxRows, " rows, got ", n);
  }
  check_device(op, "labels", in.labels, in.logits);
  check_length(op, "labels", in.labels, n, in.logits);
  check_index(op, "labels", in.labels);
  if (in.ids) {
    check_device(op, "ids", *in.ids, in.logits);
    check_length(op, "ids", *in.ids, n, in.logits);
    check_index(op, "ids", *in.ids);
  }
  check_il(op, in, n);
  if (in.bias) {
    check_device(op, "bias", *in.bias, in.logits);
    check_length(op, "bias", *in.bias, n, in.logits);
    if (dtype_of(*in.bias) != ScalarType::Float) {
      value_error(op, ": bias must be float32, got ", dtype_name(*in.bias));
    }
  }
  if (!(in.label_smoothing >= 0.0 && in.label_smoothing <= 1.0)) {
    value_error(op, ": label_smoothing must be in [0, 1], got ", in.label_smoothing);
  }
  return n;
}

inline Method check_method(const char* op, int64_t method) {
  if (method < 0 || method >= kMethodCount) {
    value_error(op, ": method must be in [0, ", kMethodCount, "), got ", method);
  }
  return static_cast<Method>(method);
}

inline void check_k(const char* op, int64_t k, int64_t n) {
  if (k < 0 || k > n) {
    value_error(op, ": k must be in [0, ", n, "], the rows of logits, got ", k);
  }
}

}  // namespace rho_ext
