// Which row kernels this machine runs.
#pragma once

#include <string>
#include <type_traits>
#include <vector>

#include "cpu/rows.h"

namespace rho_ext {

// All that were compiled, slowest first.
std::vector<std::string> compiled_isas();

// The best that the processor supports, or the one that the environment variable RHO_EXT_ISA names.
// Decided once; throws std::invalid_argument for a name that cannot run here.
const RowKernels& row_kernels();

template <class Real>
const ScoreKernels<Real>& score_kernels() {
  if constexpr (std::is_same_v<Real, double>) {
    return row_kernels().score_double;
  } else {
    return row_kernels().score_float;
  }
}

}  // namespace rho_ext
