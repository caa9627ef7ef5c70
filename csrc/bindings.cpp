// The Python module _C: what was built. Importing it also registers the CPU ops. No torch header
// here: torch ships another pybind11 than the one we build with.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "common/score.h"
#include "cpu/isa.h"

namespace py = pybind11;

namespace {

py::dict build_info() {
  py::dict info;
  info["version"] = RHO_EXT_VERSION;
  info["compiler"] = RHO_EXT_COMPILER;
  info["cxx_flags"] = RHO_EXT_CXX_FLAGS;
  info["isa_compiled"] = rho_ext::compiled_isas();
  info["isa"] = rho_ext::row_kernels().isa;
  info["torch_headers"] = RHO_EXT_TORCH_HEADERS;
  info["torch_target"] = RHO_EXT_TORCH_TARGET;
  info["cuda"] = RHO_EXT_CUDA_STATUS;
  info["sanitize"] = RHO_EXT_SANITIZE;
  return info;
}

py::dict methods() {
  py::dict numbers;
  for (int64_t i = 0; i < rho_ext::kMethodCount; ++i) {
    numbers[rho_ext::kMethodNames[i]] = i;
  }
  return numbers;
}

std::vector<std::string> needs_il() {
  std::vector<std::string> names;
  for (int64_t i = 0; i < rho_ext::kMethodCount; ++i) {
    if (rho_ext::uses_il(static_cast<rho_ext::Method>(i))) {
      names.emplace_back(rho_ext::kMethodNames[i]);
    }
  }
  return names;
}

void exp_in_place(const py::buffer& values) {
  const py::buffer_info info = values.request(true);
  if (info.format != py::format_descriptor<float>::format() || info.ndim != 1 ||
      info.strides[0] != sizeof(float)) {
    throw std::invalid_argument("exp_in_place: values must be a contiguous vector of float32");
  }
  rho_ext::row_kernels().exp(static_cast<float*>(info.ptr), info.size);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "What was built into rho_ext; importing it registers the CPU ops.";
  m.def("build_info", &build_info,
        "Versions, flags, instruction sets, CUDA and sanitizers of this build.");
  m.def("methods", &methods, "The number that the ops take for each method.");
  m.def("exp_in_place", &exp_in_place,
        "Replace float32 values <= 0 by their exp as the row kernels compute it; for tests.");
  m.def("needs_il", &needs_il, "The methods that read the table of irreducible losses.");
}
