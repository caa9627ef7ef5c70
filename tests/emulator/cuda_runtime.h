// Stand-in for the toolkit's <cuda_runtime.h>: g++ compiles a .cu file against it, and the kernels
// run on the CPU. What a kernel may rely on, and what it must not, is in README.md.
#pragma once

#ifdef __CUDACC__
#error "the emulator's cuda_runtime.h must not be on the include path of nvcc"
#endif

// Kernels test it to replace inline PTX by plain C++.
#define RHO_EMULATED 1

#include "device/keywords.h"
#include "device/vector_types.h"
// These rely on the two above.
#include "device/atomics.h"
#include "device/barriers.h"
#include "device/intrinsics.h"
#include "device/memory.h"
#include "device/warp.h"
#include "runtime_api.h"
