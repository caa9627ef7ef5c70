// RHO_HOST_DEVICE marks functions that run on the host and, if nvcc compiles them, on a GPU. They
// are always inlined, so that the linker never chooses among copies for several instruction sets
// (see cpu/rows.h).
#pragma once

#if defined(__CUDACC__)
#define RHO_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define RHO_HOST_DEVICE [[gnu::always_inline]] inline
#endif
