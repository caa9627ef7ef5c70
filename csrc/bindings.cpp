// The Python module _C: facts about the build. Importing it also registers the CPU ops. It uses
// Python's limited API alone, so that one binary serves every CPython from 3.10 on.
#include <Python.h>

#include <exception>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "common/score.h"
#include "cpu/isa.h"
#include "cuda/plan.h"

namespace {

struct Release {
  void operator()(PyObject* object) const { Py_DecRef(object); }
};
using Object = std::unique_ptr<PyObject, Release>;

// The functions below return null once they have set an error of Python.

PyObject* list_of(const std::vector<std::string>& names) {
  Object list(PyList_New(0));
  for (const std::string& name : names) {
    const Object item(PyUnicode_FromString(name.c_str()));
    if (!list || !item || PyList_Append(list.get(), item.get()) != 0) {
      return nullptr;
    }
  }
  return list.release();
}

const rho_ext::RowKernels* row_kernels() {
  try {
    return &rho_ext::row_kernels();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
    return nullptr;
  }
}

PyObject* build_info(PyObject*, PyObject*) {
  const rho_ext::RowKernels* kernels = row_kernels();
  if (kernels == nullptr) {
    return nullptr;
  }
  return Py_BuildValue("{s:s,s:s,s:s,s:N,s:s,s:s,s:s,s:s,s:s}", "version", RHO_EXT_VERSION,
                       "compiler", RHO_EXT_COMPILER, "cxx_flags", RHO_EXT_CXX_FLAGS, "isa_compiled",
                       list_of(rho_ext::compiled_isas()), "isa", kernels->isa, "torch_headers",
                       RHO_EXT_TORCH_HEADERS, "torch_target", RHO_EXT_TORCH_TARGET, "cuda",
                       RHO_EXT_CUDA_STATUS, "sanitize", RHO_EXT_SANITIZE);
}

PyObject* methods(PyObject*, PyObject*) {
  return list_of({std::begin(rho_ext::kMethodNames), std::end(rho_ext::kMethodNames)});
}

PyObject* needs_il(PyObject*, PyObject*) {
  std::vector<std::string> names;
  for (int64_t i = 0; i < rho_ext::kMethodCount; ++i) {
    if (rho_ext::uses_il(static_cast<rho_ext::Method>(i))) {
      names.emplace_back(rho_ext::kMethodNames[i]);
    }
  }
  return list_of(names);
}

PyObject* launch_plan(PyObject*, PyObject* arguments) {
  long long n = 0, classes = 0, element_size = 0, k = 0;
  int processors = 0;
  if (!PyArg_ParseTuple(arguments, "LLLLi", &n, &classes, &element_size, &k, &processors)) {
    return nullptr;
  }
  const rho_ext::Plan plan =
      rho_ext::make_plan({n, classes, element_size, k}, {processors, true}, {});
  return Py_BuildValue("{s:s,s:s,s:i,s:L,s:i,s:L,s:n,s:n}", "regime",
                       rho_ext::kRowRegimeNames[static_cast<int>(plan.regime)], "top_k_stage",
                       rho_ext::kTopKStageNames[static_cast<int>(plan.top_k_stage)], "threads",
                       plan.threads, "blocks", static_cast<long long>(plan.blocks), "lanes",
                       plan.lanes, "slices", static_cast<long long>(plan.slices), "shared_bytes",
                       static_cast<Py_ssize_t>(plan.shared_bytes), "scratch_bytes",
                       static_cast<Py_ssize_t>(plan.scratch_bytes));
}

PyObject* exp(PyObject*, PyObject* values) {
  char* bytes = nullptr;
  Py_ssize_t size = 0;
  const rho_ext::RowKernels* kernels = row_kernels();
  if (kernels == nullptr || PyBytes_AsStringAndSize(values, &bytes, &size) != 0) {
    return nullptr;
  }
  constexpr Py_ssize_t kSize = sizeof(float);
  if (size % kSize != 0) {
    PyErr_SetString(PyExc_ValueError, "exp: values must be the bytes of a vector of float32");
    return nullptr;
  }
  PyObject* result = PyBytes_FromStringAndSize(bytes, size);
  if (result != nullptr) {
    kernels->exp(reinterpret_cast<float*>(PyBytes_AsString(result)), size / kSize);
  }
  return result;
}

PyMethodDef functions[] = {
    {"build_info", build_info, METH_NOARGS,
     "Return versions, flags, instruction sets, CUDA and sanitizers of this build."},
    {"methods", methods, METH_NOARGS, "Return the methods in the order of their numbers."},
    {"needs_il", needs_il, METH_NOARGS, "Return the methods that read irreducible losses."},
    {"launch_plan", launch_plan, METH_VARARGS,
     "Return the launch plan of select on CUDA, or of score for k = -1."},
    {"exp", exp, METH_O,
     "Return the exp of float32 values <= 0, as bytes, as the row kernels compute it; for tests."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef module = {PyModuleDef_HEAD_INIT,
                      "_C",
                      "Facts about this build of rho_ext. Importing it registers the CPU ops.",
                      -1,
                      functions,
                      nullptr,
                      nullptr,
                      nullptr,
                      nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() {
  Object created(PyModule_Create(&module));
  if (!created ||
      PyModule_AddIntConstant(created.get(), "workspace_words", rho_ext::kStateBytes / 4) != 0) {
    return nullptr;
  }
  return created.release();
}
