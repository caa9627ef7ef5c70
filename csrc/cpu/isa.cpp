#include "cpu/isa.h"

#include <cstdlib>
#include <stdexcept>

namespace rho_ext {
namespace {

std::vector<const RowKernels*> compiled_kernels() {
#ifdef RHO_EXT_X86
  return {&kRowsBaseline, &kRowsAvx2, &kRowsAvx512};
#else
  return {&kRowsBaseline};
#endif
}

bool supported(const RowKernels* kernels) {
#ifdef RHO_EXT_X86
  __builtin_cpu_init();
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
              __builtin_cpu_supports("f16c");
  if (kernels == &kRowsAvx2) {
    return avx2;
  }
  if (kernels == &kRowsAvx512) {
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
#endif
  return kernels == &kRowsBaseline;
}

const RowKernels& choose() {
  const char* wanted = std::getenv("RHO_EXT_ISA");
  const RowKernels* best = nullptr;
  std::string names;
  for (const RowKernels* kernels : compiled_kernels()) {
    if (!supported(kernels)) {
      continue;
    }
    best = kernels;
    names += std::string(names.empty() ? "" : ", ") + kernels->isa;
    if (wanted != nullptr && std::string(wanted) == kernels->isa) {
      return *kernels;
    }
  }
  if (wanted != nullptr && *wanted != '\0') {
    throw std::invalid_argument("RHO_EXT_ISA must be one of " + names + " on this machine, got '" +
                                wanted + "'");
  }
  return *best;
}

}  // namespace

std::vector<std::string> compiled_isas() {
  std::vector<std::string> names;
  for (const RowKernels* kernels : compiled_kernels()) {
    names.emplace_back(kernels->isa);
  }
  return names;
}

const RowKernels& row_kernels() {
  static const RowKernels& chosen = choose();
  return chosen;
}

}  // namespace rho_ext
