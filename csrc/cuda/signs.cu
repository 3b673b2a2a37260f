// sign_pack, sign_unpack and majority_vote of packing.h.
#include "cuda/magnitudes.h"
#include "cuda/packing.h"
#include "cuda/votes.h"
#include "cuda/warp.cuh"

namespace sparsefl {
namespace {

__global__ void __launch_bounds__(kThreads)
    sign_pack_kernel(const float* x, Arena arena, uint32_t* bits, int32_t* found_nan) {
  const int64_t index = warp_of_grid();
  if (index >= arena.blocks) return;
  uint32_t largest = 0;
  const uint32_t word = test_block<true>(x, block_at(arena, index), [&](uint32_t element) {
    largest = max(largest, magnitude_key(element));
    return is_negative(element);
  });
  bits[index * kBlockWords + lane_of_thread()] = word;
  if (largest > kInfinity) *found_nan = 1;
}

__device__ __forceinline__ uint32_t with_sign(uint32_t positive, uint32_t word, int bit) {
  return positive ^ (word >> bit & 1) << 31;
}

__global__ void __launch_bounds__(kThreads)
    sign_unpack_kernel(const uint32_t* bits, Arena arena, uint32_t positive, float* out) {
  const int64_t index = warp_of_grid();
  if (index >= arena.blocks) return;
  const Block block = block_at(arena, index);
  const int lane = lane_of_thread();
  auto* first = reinterpret_cast<uint32_t*>(out) + block.element;
  uint32_t word = bits[index * kBlockWords + lane];
  if (is_whole(first, block)) {
    word = __shfl_sync(kAllLanes, word, transposed_word(lane));
#pragma unroll
    for (int step = 0; step < kTransposeSteps; ++step) {
      word = transpose_step(word, __shfl_xor_sync(kAllLanes, word, 1 << step), step, lane);
    }
#pragma unroll
    for (int j = 0; j < kInFlight; ++j) {
      const uint4 four{with_sign(positive, word, 4 * j), with_sign(positive, word, 4 * j + 1),
                       with_sign(positive, word, 4 * j + 2), with_sign(positive, word, 4 * j + 3)};
      __stcs(reinterpret_cast<uint4*>(first + loaded_position(j, lane)), four);
    }
    return;
  }
  for (int k = 0; k < kBlockWords; ++k) {
    const uint32_t own = __shfl_sync(kAllLanes, word, k);
    const int at = 32 * k + lane;
    if (at < block.positions) __stcs(first + at, with_sign(positive, own, lane));
  }
}

// The votes of a client on positions 32 * kWords * index and following, zeros past the last.
template <int kWords>
__device__ __forceinline__ void load_votes(const Ballots& ballots, int64_t client, int64_t index,
                                           uint32_t* votes) {
  const uint8_t* from = ballots.packed + client * ballots.stride + index * 4 * kWords;
  const int64_t left = (ballots.n + 7) / 8 - index * 4 * kWords;
  if constexpr (kWords == 4) {
    if (left >= 16) {
      const uint4 four = __ldcs(reinterpret_cast<const uint4*>(from));
      votes[0] = four.x, votes[1] = four.y, votes[2] = four.z, votes[3] = four.w;
      return;
    }
  }
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    votes[i] = 0;
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      if (4 * i + b < left) votes[i] |= static_cast<uint32_t>(from[4 * i + b]) << 8 * b;
    }
  }
}

// A thread counts kWords words; with 4 of them rows lie at multiples of 16 bytes.
template <int kPlanes, int kWords>
__global__ void __launch_bounds__(kThreads)
    majority_vote_kernel(Ballots ballots, uint32_t least, uint32_t* negative, uint32_t* tied) {
  const int64_t index = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  const int64_t words = (ballots.n + 31) / 32;
  if (index * kWords >= words) return;
  uint32_t planes[kWords][kPlanes] = {};
  for (int64_t client = 0; client < ballots.clients; client += 4) {
    uint32_t votes[4][kWords] = {};
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      if (client + c < ballots.clients) load_votes<kWords>(ballots, client + c, index, votes[c]);
    }
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      const uint32_t four[4] = {votes[0][i], votes[1][i], votes[2][i], votes[3][i]};
      count_four<kPlanes>(four, planes[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    const int64_t word = index * kWords + i;
    if (word >= words) continue;
    const int64_t left = ballots.n - 32 * word;
    const uint32_t valid = left < 32 ? bits_below(static_cast<int>(left)) : ~uint32_t{0};
    const Verdict verdict = judge<kPlanes>(planes[i], least);
    negative[word] = verdict.negative & valid;
    if (tied != nullptr) tied[word] = verdict.tied & valid;
  }
}

template <int kPlanes, int kWords>
void launch_vote(const Ballots& ballots, uint32_t least, uint32_t* negative, uint32_t* tied,
                 cudaStream_t stream) {
  constexpr int64_t kPositions = int64_t{32} * kWords * kThreads;
  const auto grid = static_cast<unsigned>((ballots.n + kPositions - 1) / kPositions);
  launch(majority_vote_kernel<kPlanes, kWords>, grid, stream, ballots, least, negative, tied);
}

template <int kPlanes>
void launch_vote(const Ballots& ballots, uint32_t least, uint32_t* negative, uint32_t* tied,
                 cudaStream_t stream) {
  const auto address = reinterpret_cast<uintptr_t>(ballots.packed);
  if (address % 16 == 0 && (ballots.stride % 16 == 0 || ballots.clients == 1)) {
    launch_vote<kPlanes, 4>(ballots, least, negative, tied, stream);
  } else {
    launch_vote<kPlanes, 1>(ballots, least, negative, tied, stream);
  }
}

}  // namespace

int sign_pack(const float* x, const Arena& arena, uint32_t* bits, int32_t* found_nan,
              cudaStream_t stream) {
  if (arena.blocks == 0) return cudaSuccess;
  launch(sign_pack_kernel, grid_of(arena.blocks), stream, x, arena, bits, found_nan);
  return cudaGetLastError();
}

int sign_unpack(const uint32_t* bits, const Arena& arena, float scale, float* out,
                cudaStream_t stream) {
  if (arena.blocks == 0) return cudaSuccess;
  uint32_t positive;
  __builtin_memcpy(&positive, &scale, sizeof(positive));
  launch(sign_unpack_kernel, grid_of(arena.blocks), stream, bits, arena, positive, out);
  return cudaGetLastError();
}

int majority_vote(const Ballots& ballots, int64_t least, uint32_t* negative, uint32_t* tied,
                  cudaStream_t stream) {
  if (ballots.n == 0) return cudaSuccess;
  const auto enough = static_cast<uint32_t>(least);
  if (ballots.clients < 256) {
    launch_vote<8>(ballots, enough, negative, tied, stream);
  } else {
    launch_vote<16>(ballots, enough, negative, tied, stream);
  }
  return cudaGetLastError();
}

}  // namespace sparsefl
