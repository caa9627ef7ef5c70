// The Python module _C: facts about the build. Importing it also registers the CPU ops. It includes
// no torch header, because torch ships a different pybind11.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "common/score.h"
#include "cpu/isa.h"
#include "cuda/plan.h"

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

py::dict launch_plan(int64_t n, int64_t classes, int64_t element_size, int64_t k,
                     int32_t processors) {
  const rho_ext::Plan plan =
      rho_ext::make_plan({n, classes, element_size, k}, {processors, true}, {});
  py::dict values;
  values["regime"] = rho_ext::kRowRegimeNames[static_cast<int>(plan.regime)];
  values["top_k_stage"] = rho_ext::kTopKStageNames[static_cast<int>(plan.top_k_stage)];
  values["threads"] = plan.threads;
  values["blocks"] = plan.blocks;
  values["lanes"] = plan.lanes;
  values["slices"] = plan.slices;
  values["shared_bytes"] = plan.shared_bytes;
  values["scratch_bytes"] = plan.scratch_bytes;
  return values;
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
  m.doc() = "Facts about this build of rho_ext. Importing it registers the CPU ops.";
  m.def("build_info", &build_info,
        "Return versions, flags, instruction sets, CUDA and sanitizers of this build.");
  m.def("methods", &methods, "Return the number that the ops take for each method.");
  m.def("exp_in_place", &exp_in_place,
        "Replace float32 values <= 0 by their exp as the row kernels compute it; for tests.");
  m.def("launch_plan", &launch_plan, py::arg("n"), py::arg("classes"), py::arg("element_size"),
        py::arg("k"), py::arg("processors"),
        "Return the launch plan of select on CUDA, or of score for k = -1.");
  m.attr("workspace_words") = rho_ext::kStateBytes / 4;
  m.def("needs_il", &needs_il, "Return the methods that read irreducible losses.");
}
