// The choice of the row kernels for this machine.
#pragma once

#include <string>
#include <type_traits>
#include <vector>

#include "cpu/rows.h"

namespace rho_ext {

// Return the names of all compiled instruction sets, slowest first.
std::vector<std::string> compiled_isas();

// Return the best kernels that the processor supports, or those that RHO_EXT_ISA names. Decided
// once. Throws std::invalid_argument for a name that cannot run here.
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
