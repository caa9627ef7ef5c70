// Defines the ops. The kernels register themselves at the end of their own file.
#include "common/schemas.h"

STABLE_TORCH_LIBRARY(rho_ext, m) { rho_ext::define_ops(m); }
