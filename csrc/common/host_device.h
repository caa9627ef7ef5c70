// Marks functions that run on the host and, where nvcc compiles them, on a GPU. Inlined wherever
// they are used: the row kernels may share them only if the linker never has to choose among copies
// for several instruction sets (see cpu/rows.h).
#pragma once

#if defined(__CUDACC__)
#define RHO_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define RHO_HOST_DEVICE [[gnu::always_inline]] inline
#endif
