// Launches a kernel. Without a CUDA compiler the tests' emulation of one takes its place.
#pragma once

#include <cuda_runtime.h>

namespace sparsefl {

inline constexpr int kThreads = 256;

// Thread blocks of kThreads threads.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, cudaStream_t stream, Arguments... arguments) {
#ifdef __CUDACC__
  kernel<<<grid, kThreads, 0, stream>>>(arguments...);
#else
  emulate(kernel, grid, dim3(kThreads), stream, arguments...);
#endif
}

}  // namespace sparsefl
