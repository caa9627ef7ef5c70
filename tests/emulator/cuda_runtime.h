// Replaces the toolkit's <cuda_runtime.h>: g++ compiles a .cu file against it, and the kernels run
// on the CPU. README.md lists what a kernel may rely on.
#pragma once

#ifdef __CUDACC__
#error "the emulator's cuda_runtime.h must not be on the include path of nvcc"
#endif

#include "device/keywords.h"
#include "device/vector_types.h"
// These rely on the two above.
#include "device/atomics.h"
#include "device/barriers.h"
#include "device/intrinsics.h"
#include "device/memory.h"
#include "device/warp.h"
#include "runtime_api.h"
