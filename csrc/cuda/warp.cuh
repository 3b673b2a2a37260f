// What a warp does with a block of 1024 positions; lane l of it holds word l of a bitmap.
#pragma once

#include <cstdint>

#include "cuda/bit_words.h"
#include "cuda/launch.cuh"

namespace sparsefl {

inline constexpr uint32_t kAllLanes = ~uint32_t{0};
inline constexpr int kWarpThreads = 32;
inline constexpr int kWarps = kThreads / kWarpThreads;
// Loads of a lane that are under way at a time.
inline constexpr int kInFlight = 8;

__device__ __forceinline__ int lane_of_thread() { return static_cast<int>(threadIdx.x) % 32; }

__device__ __forceinline__ int64_t warp_of_grid() {
  return blockIdx.x * int64_t{kWarps} + threadIdx.x / kWarpThreads;
}

// The grid whose warps take a block each.
inline unsigned grid_of(int64_t blocks) {
  return static_cast<unsigned>((blocks + kWarps - 1) / kWarps);
}

// Whether the elements of a block can be loaded 4 at a time.
__device__ __forceinline__ bool is_whole(const void* first, const Block& block) {
  return block.positions == kBlockPositions && reinterpret_cast<uintptr_t>(first) % 16 == 0;
}

// Past the first-level cache where nothing reads it again.
template <bool kOnce, class T>
__device__ __forceinline__ T load(const T* from) {
  if constexpr (kOnce) return __ldcs(from);
  return __ldg(from);
}

// Calls test(bits of an element) for every element of a block and returns what it answers as word
// lane_of_thread() of the block's bitmap. All lanes take part.
template <bool kOnce, class Test>
__device__ __forceinline__ uint32_t test_block(const float* x, const Block& block, Test test) {
  const int lane = lane_of_thread();
  const auto* first = reinterpret_cast<const uint32_t*>(x) + block.element;
  uint32_t word = 0;
  if (is_whole(first, block)) {
    uint4 four[kInFlight];
#pragma unroll
    for (int j = 0; j < kInFlight; ++j) {
      four[j] = load<kOnce>(reinterpret_cast<const uint4*>(first + loaded_position(j, lane)));
    }
#pragma unroll
    for (int j = 0; j < kInFlight; ++j) {
      const uint32_t bits = (test(four[j].x) ? 1u : 0u) | (test(four[j].y) ? 2u : 0u) |
                            (test(four[j].z) ? 4u : 0u) | (test(four[j].w) ? 8u : 0u);
      word |= bits << 4 * j;
    }
#pragma unroll
    for (int step = 0; step < kTransposeSteps; ++step) {
      word = transpose_step(word, __shfl_xor_sync(kAllLanes, word, 1 << step), step, lane);
    }
    return __shfl_sync(kAllLanes, word, lane_of_word(lane));
  }
  for (int k = 0; k < kBlockWords; k += kInFlight) {
    uint32_t one[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const int at = 32 * (k + i) + lane;
      one[i] = at < block.positions ? load<kOnce>(first + at) : 0;
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const bool inside = 32 * (k + i) + lane < block.positions;
      const uint32_t answers = __ballot_sync(kAllLanes, inside && test(one[i]));
      if (lane == k + i) word = answers;
    }
  }
  return word;
}

// Word lane_of_thread() of a block's bitmap, without what lies past its positions.
__device__ __forceinline__ uint32_t word_of_block(const uint32_t* bits, int64_t index,
                                                  const Block& block) {
  const int lane = lane_of_thread();
  return bits[index * kBlockWords + lane] & valid_bits(block.positions, lane);
}

// The sum of the lanes before this one, and of all.
struct Ranks {
  int before, total;
};

__device__ __forceinline__ Ranks rank_in_warp(int count) {
  const int lane = lane_of_thread();
  int sum = count;
#pragma unroll
  for (int step = 1; step < kWarpThreads; step *= 2) {
    const int other = __shfl_up_sync(kAllLanes, sum, step);
    sum += lane >= step ? other : 0;
  }
  return {sum - count, __shfl_sync(kAllLanes, sum, kWarpThreads - 1)};
}

// Calls load(position) for every position whose bit is set, then take(position, what it gave, word,
// is set) for all of its word, words in order, kInFlight of them at a time; words of no bits are
// left out. All lanes take part in both: the position is 32 * (the word's number) + the lane.
template <class Value, class Load, class Take>
__device__ __forceinline__ void walk_block(uint32_t word, Load load, Take take) {
  const int lane = lane_of_thread();
  const uint32_t filled = __ballot_sync(kAllLanes, word != 0);
  for (int k = 0; k < kBlockWords; k += kInFlight) {
    if ((filled >> k & bits_below(kInFlight)) == 0) continue;
    uint32_t words[kInFlight];
    Value values[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      words[i] = __shfl_sync(kAllLanes, word, k + i);
      const bool set = (words[i] >> lane & 1) != 0;
      values[i] = set ? load(k + i) : Value{};
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) take(k + i, values[i], words[i]);
  }
}

}  // namespace sparsefl
