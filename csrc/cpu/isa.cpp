#include "cpu/isa.h"

#include <cstdlib>
#include <stdexcept>

#ifdef RHO_EXT_X86
#include <cpuid.h>
#endif

namespace rho_ext {
namespace {

std::vector<const RowKernels*> compiled_kernels() {
#ifdef RHO_EXT_X86
  return {&kRowsBaseline, &kRowsAvx2, &kRowsAvx512};
#else
  return {&kRowsBaseline};
#endif
}

#ifdef RHO_EXT_X86
// Clang 14 does not know "f16c" in __builtin_cpu_supports.
bool supports_f16c() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

bool supported(const RowKernels* kernels) {
#ifdef RHO_EXT_X86
  __builtin_cpu_init();
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && supports_f16c();
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
