// Registers the CUDA kernels of the ops that csrc/registration.cpp defines.
#include "cuda/ops.h"

STABLE_TORCH_LIBRARY_IMPL(rho_ext, CUDA, m) { rho_ext::implement_ops(m); }
