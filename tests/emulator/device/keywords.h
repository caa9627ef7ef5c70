// The keywords that nvcc adds to C++.
#pragma once

// Every block runs on its own OS thread, so thread_local means "one for each block".
#define __shared__ thread_local

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) alignas(bytes)
