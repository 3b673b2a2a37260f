// Sums of counts before each block of an arena, in chunks of which one thread block takes each.
#pragma once

#include "cuda/warp.cuh"

namespace sparsefl {
namespace {

constexpr int kPerThread = 4;
constexpr int kChunk = kThreads * kPerThread;

inline int64_t chunks_of(int64_t blocks) { return (blocks + kChunk - 1) / kChunk; }

// The sum of all threads of a thread block before this one, and of all.
struct Sums {
  int64_t before, total;
};

__device__ __forceinline__ Sums sum_in_thread_block(int64_t own) {
  __shared__ int64_t of_warps[kWarps];
  const int lane = lane_of_thread(), warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  int64_t sum = own;
#pragma unroll
  for (int step = 1; step < kWarpThreads; step *= 2) {
    const int64_t other = __shfl_up_sync(kAllLanes, sum, step);
    sum += lane >= step ? other : 0;
  }
  // What an earlier call left may still be read.
  __syncthreads();
  if (lane == kWarpThreads - 1) of_warps[warp] = sum;
  __syncthreads();
  Sums sums{sum - own, 0};
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    sums.before += w < warp ? of_warps[w] : 0;
    sums.total += of_warps[w];
  }
  return sums;
}

// chunk_sums[c] = the sum of chunk c of counts. Row y of both where there are several.
__global__ void __launch_bounds__(kThreads)
    sum_chunks_kernel(const int64_t* counts, int64_t blocks, int64_t pitch, int64_t* chunk_sums) {
  counts += blockIdx.y * pitch;
  const int64_t first = blockIdx.x * int64_t{kChunk} + threadIdx.x * int64_t{kPerThread};
  int64_t sum = 0;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) sum += first + i < blocks ? counts[first + i] : 0;
  const Sums sums = sum_in_thread_block(sum);
  if (threadIdx.x == 0) chunk_sums[blockIdx.y * int64_t{gridDim.x} + blockIdx.x] = sums.total;
}

// counts[b] becomes the sum of those before it, counts[blocks] that of all.
__global__ void __launch_bounds__(kThreads)
    scan_chunks_kernel(int64_t* counts, int64_t blocks, int64_t pitch, const int64_t* chunk_sums) {
  counts += blockIdx.y * pitch;
  chunk_sums += blockIdx.y * int64_t{gridDim.x};
  int64_t earlier = 0;
  for (int64_t c = threadIdx.x; c < blockIdx.x; c += kThreads) earlier += chunk_sums[c];
  const int64_t offset = sum_in_thread_block(earlier).total;
  const int64_t first = blockIdx.x * int64_t{kChunk} + threadIdx.x * int64_t{kPerThread};
  int64_t own[kPerThread], sum = 0;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    own[i] = first + i < blocks ? counts[first + i] : 0;
    sum += own[i];
  }
  const Sums sums = sum_in_thread_block(sum);
  int64_t before = offset + sums.before;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    if (first + i < blocks) counts[first + i] = before;
    before += own[i];
  }
  const bool is_last = blockIdx.x == gridDim.x - 1 && threadIdx.x == kThreads - 1;
  if (is_last) counts[blocks] = before;
}

// Turns `rows` rows of counts into the sums before each; `chunk_sums` holds a number a chunk and
// row. There is at least one block.
inline void scan_counts(int64_t* counts, int64_t blocks, int64_t pitch, int rows,
                        int64_t* chunk_sums, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(chunks_of(blocks)), static_cast<unsigned>(rows));
  launch(sum_chunks_kernel, grid, stream, counts, blocks, pitch, chunk_sums);
  launch(scan_chunks_kernel, grid, stream, counts, blocks, pitch, chunk_sums);
}

}  // namespace
}  // namespace sparsefl
