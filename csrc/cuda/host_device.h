// Functions that run on host and device, so that a host's compiler can test them.
#pragma once

#ifdef __CUDACC__
#define SPARSEFL_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define SPARSEFL_HOST_DEVICE inline
#endif
