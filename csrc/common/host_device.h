// Marks functions that run on the host and, where nvcc compiles them, on a GPU.
#pragma once

#if defined(__CUDACC__)
#define RHO_HOST_DEVICE __host__ __device__
#else
#define RHO_HOST_DEVICE
#endif
