// bitmap_plan, bitmap_gather, bitmap_scatter and bitmap_add of packing.h.
#include "cuda/packing.h"
#include "cuda/scan.cuh"
#include "cuda/warp.cuh"

namespace sparsefl {
namespace {

__global__ void __launch_bounds__(kThreads)
    count_kernel(const uint32_t* bits, Arena arena, int64_t* counts) {
  const int64_t index = warp_of_grid();
  if (index >= arena.blocks) return;
  const uint32_t word = word_of_block(bits, index, block_at(arena, index));
  const unsigned count = __reduce_add_sync(kAllLanes, static_cast<unsigned>(count_bits(word)));
  if (lane_of_thread() == 0) counts[index] = count;
}

// What a warp needs of its block.
struct Walk {
  Block block;
  uint32_t word;
  int before;      // bits set in the words before
  int64_t prefix;  // and in the blocks before
};

__device__ __forceinline__ Walk walk_of(const Arena& arena, const Positions& positions,
                                        int64_t index) {
  const Block block = block_at(arena, index);
  const uint32_t word = word_of_block(positions.bits, index, block);
  return {block, word, rank_in_warp(count_bits(word)).before, positions.prefix[index]};
}

// The rank of this lane's position in word k, which is set.
__device__ __forceinline__ int64_t rank_of(const Walk& walk, int k, uint32_t word) {
  return walk.prefix + __shfl_sync(kAllLanes, walk.before, k) +
         count_bits(word & bits_below(lane_of_thread()));
}

__global__ void __launch_bounds__(kThreads)
    gather_kernel(const float* x, Arena arena, Positions positions, float* values) {
  const int64_t index = warp_of_grid();
  if (index >= arena.blocks) return;
  const Walk walk = walk_of(arena, positions, index);
  const int lane = lane_of_thread();
  const float* first = x + walk.block.element + lane;
  walk_block<float>(
      walk.word, [&](int k) { return __ldcs(first + 32 * k); },
      [&](int k, float value, uint32_t word) {
        const int64_t rank = rank_of(walk, k, word);
        if ((word >> lane & 1) != 0 && rank < positions.count) values[rank] = value;
      });
}

// Calls put(element, load(element, rank), is set) for every position of a warp's block, 0 standing
// for what is not set; the loads of kInFlight words are under way at a time.
template <class Load, class Put>
__device__ __forceinline__ void expand_block(const Arena& arena, const Positions& positions,
                                             int64_t index, Load load, Put put) {
  const Walk walk = walk_of(arena, positions, index);
  const int lane = lane_of_thread();
  for (int k = 0; k < kBlockWords; k += kInFlight) {
    float value[kInFlight];
    bool set[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const uint32_t word = __shfl_sync(kAllLanes, walk.word, k + i);
      const int64_t rank = rank_of(walk, k + i, word);
      set[i] = (word >> lane & 1) != 0 && rank < positions.count;
      value[i] = set[i] ? load(walk.block.element + 32 * (k + i) + lane, rank) : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const int at = 32 * (k + i) + lane;
      if (at < walk.block.positions) put(walk.block.element + at, value[i], set[i]);
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    scatter_kernel(const float* values, Arena arena, Positions positions, float* out) {
  const int64_t index = warp_of_grid();
  if (index >= arena.blocks) return;
  expand_block(
      arena, positions, index, [&](int64_t, int64_t rank) { return __ldcs(values + rank); },
      [&](int64_t element, float value, bool) { __stcs(out + element, value); });
}

__global__ void __launch_bounds__(kThreads)
    add_kernel(float* model, Arena arena, Positions positions, const float* values, float weight) {
  const int64_t index = warp_of_grid();
  if (index >= arena.blocks) return;
  expand_block(
      arena, positions, index,
      [&](int64_t element, int64_t rank) {
        return __fmaf_rn(weight, __ldcs(values + rank), model[element]);
      },
      [&](int64_t element, float sum, bool set) {
        if (set) model[element] = sum;
      });
}

}  // namespace

int64_t scan_scratch(int64_t blocks) { return chunks_of(blocks); }

int bitmap_plan(const uint32_t* bits, const Arena& arena, int64_t* prefix, int64_t* scratch,
                cudaStream_t stream) {
  if (arena.blocks == 0) return cudaMemsetAsync(prefix, 0, sizeof(*prefix), stream);
  launch(count_kernel, grid_of(arena.blocks), stream, bits, arena, prefix);
  scan_counts(prefix, arena.blocks, 0, 1, scratch, stream);
  return cudaGetLastError();
}

int bitmap_gather(const float* x, const Arena& arena, const Positions& positions, float* values,
                  cudaStream_t stream) {
  if (arena.blocks == 0) return cudaSuccess;
  launch(gather_kernel, grid_of(arena.blocks), stream, x, arena, positions, values);
  return cudaGetLastError();
}

int bitmap_scatter(const float* values, const Arena& arena, const Positions& positions, float* out,
                   cudaStream_t stream) {
  if (arena.blocks == 0) return cudaSuccess;
  launch(scatter_kernel, grid_of(arena.blocks), stream, values, arena, positions, out);
  return cudaGetLastError();
}

int bitmap_add(float* model, const Arena& arena, const Positions& positions, const float* values,
               float weight, cudaStream_t stream) {
  if (arena.blocks == 0) return cudaSuccess;
  launch(add_kernel, grid_of(arena.blocks), stream, model, arena, positions, values, weight);
  return cudaGetLastError();
}

}  // namespace sparsefl
