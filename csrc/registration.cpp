// Define the ops. Each kernel registers itself in its own file.
#include "common/schemas.h"

STABLE_TORCH_LIBRARY(rho_ext, m) { rho_ext::define_ops(m); }
