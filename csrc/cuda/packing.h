// Bitmaps, signs, votes and the largest elements on CUDA devices: what csrc/codec computes, bit for
// bit. Pointers are to device memory. Functions only enqueue work on `stream`, without waiting for
// it or allocating memory, so that a CUDA graph can capture them, and return a cudaError_t. The
// results do not depend on how the device schedules them.
//
// Bitmaps are those of an arena (arena.h): 128 bytes a block, aligned to 16 bytes. Floats may lie
// at any multiple of 4 bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/arena.h"

typedef struct CUstream_st* cudaStream_t;

namespace sparsefl {

// Sets bit i where x[i] < 0; zeros of either sign count as positive. Sets *found_nan to 1 where an
// element is NaN and else leaves it.
int sign_pack(const float* x, const Arena& arena, uint32_t* bits, int32_t* found_nan,
              cudaStream_t stream);

// out[i] = -scale where bit i is set, else scale.
int sign_unpack(const uint32_t* bits, const Arena& arena, float scale, float* out,
                cudaStream_t stream);

// What a scan of counts of so many blocks takes beside them, in numbers.
int64_t scan_scratch(int64_t blocks);

// prefix[b] = set bits before block b, prefix[blocks] = all of them.
int bitmap_plan(const uint32_t* bits, const Arena& arena, int64_t* prefix, int64_t* scratch,
                cudaStream_t stream);

// A bitmap and its plan; `count` is how many bits are set, and what is read or written of values
// whatever the bitmap holds.
struct Positions {
  const uint32_t* bits;
  const int64_t* prefix;
  int64_t count;
};

// values[j] = x[p_j], p_j being the j-th position that is set.
int bitmap_gather(const float* x, const Arena& arena, const Positions& positions, float* values,
                  cudaStream_t stream);

// out[p_j] = values[j], zero elsewhere.
int bitmap_scatter(const float* values, const Arena& arena, const Positions& positions, float* out,
                   cudaStream_t stream);

// model[p_j] = fma(weight, values[j], model[p_j]), rounded once.
int bitmap_add(float* model, const Arena& arena, const Positions& positions, const float* values,
               float weight, cudaStream_t stream);

// Bitmaps of clients, one every `stride` bytes, of n positions each; bit set: the client votes -1.
struct Ballots {
  const uint8_t* packed;
  int64_t clients;  // 1 to kMostClients
  int64_t stride;
  int64_t n;
};
inline constexpr int64_t kMostClients = 65535;

// Sets bit i of `negative` where at least `least` clients vote -1, and, where `tied` is not null,
// bit i of it where exactly least - 1 do. Both have ceil(n / 32) words, the bits past n zero.
int majority_vote(const Ballots& ballots, int64_t least, uint32_t* negative, uint32_t* tied,
                  cudaStream_t stream);

// What top_k works in, in bytes, aligned to 8.
size_t top_k_scratch(int64_t blocks);

// Sets the bits of the k elements of largest magnitude, ties to the lowest index, writes their plan
// and values[0, k). k is at most arena.numel. Infinities come first; sets *found_nan to 1 where
// an element is NaN, the rest then being of no use, and else leaves it.
int top_k(const float* x, const Arena& arena, int64_t k, uint32_t* bits, int64_t* prefix,
          float* values, int32_t* found_nan, void* scratch, cudaStream_t stream);

}  // namespace sparsefl
