// Registers the CUDA code as ops of rho_emulated on CPU tensors.
#include "common/schemas.h"
#include "cuda/ops.h"

STABLE_TORCH_LIBRARY(rho_emulated, m) { rho_ext::define_ops(m); }
STABLE_TORCH_LIBRARY_IMPL(rho_emulated, CPU, m) { rho_ext::implement_ops(m); }
