// Which row kernels this machine runs.
#pragma once

#include <string>
#include <vector>

#include "cpu/rows.h"

namespace rho_ext {

// All that were compiled, slowest first.
std::vector<std::string> compiled_isas();

// The best that the processor supports, or the one that the environment variable RHO_EXT_ISA names.
// Decided once; throws std::invalid_argument for a name that cannot run here.
const RowKernels& row_kernels();

}  // namespace rho_ext
