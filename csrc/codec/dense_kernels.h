// Loops over dense float32 tensors and the bitmaps of their positions, for each instruction set.
// All of them give the same bits. Bitmaps: least significant bit first, zeros past the last.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/isa.h"

namespace sparsefl::codec {

// The magnitude of a float32 as an integer of the same order: its bits without the sign. A NaN's is
// above kInfinityKey.
inline constexpr uint32_t kMagnitudeBits = 0x7FFFFFFF;
inline constexpr uint32_t kInfinityKey = 0x7F800000;

// Functions that append write whole vectors: up to this many elements past the last are scratch.
inline constexpr size_t kAppendSlack = 16;

// Outputs from this size on are written past the caches.
inline constexpr size_t kStreamingBytes = size_t{8} << 20;

// Votes of clients: bit i of each is set where the client's sign at position i is -1.
struct Votes {
  const uint8_t* const* packed;  // [clients], bitmaps of n positions
  size_t clients;
  size_t n;
};

struct DenseKernels {
  // Sets bit i where x[i] < 0. Returns false where an element is NaN.
  bool (*pack_signs)(const float* x, size_t n, uint8_t* bits);
  // out[i] = -scale where bit i is set, else scale; past the caches where `streaming`.
  void (*unpack_signs)(const uint8_t* bits, size_t n, float scale, bool streaming, float* out);

  // Sets bit i where the magnitude of x[i] is at least `low`, and appends these x[i] to `values`.
  // Returns their number.
  size_t (*keep)(const float* x, size_t n, uint32_t low, uint8_t* bits, float* values);
  // Appends the magnitudes below `high` to `keys` and raises *largest to the largest of all.
  size_t (*collect)(const float* x, size_t n, uint32_t high, uint32_t* keys, uint32_t* largest);
  // As keep, of the magnitudes above `threshold` and of the first *ties equal to it, which *ties is
  // lowered by. `values` may be x itself.
  size_t (*refine)(const float* x, size_t n, uint32_t threshold, size_t* ties, uint8_t* bits,
                   float* values);

  // Appends x[i] of the set bits to `values`, which holds `count`, and never writes past them.
  void (*gather)(const float* x, const uint8_t* bits, size_t n, float* values, size_t count);
  // model[i] = fma(weight, values[j], model[i]) of the j-th set bit i, rounded once; `values` holds
  // `count`, and no more of them are read.
  void (*add_at)(float* model, const uint8_t* bits, size_t n, const float* values, size_t count,
                 float weight);

  // Sets bit i of `negative` where at least `least` clients vote -1, and, where `tied` is not null,
  // bit i of it where exactly least - 1 do.
  void (*vote)(const Votes& votes, size_t least, uint8_t* negative, uint8_t* tied);
  // out[i] = (total - 2 * the sum of weights[c] of the clients that vote -1) * unit, in double
  // precision; `total` is the sum of all weights, which fits.
  void (*mean)(const Votes& votes, const int32_t* weights, int32_t total, double unit, float* out);
  // The same where all weights are `weight`.
  void (*even_mean)(const Votes& votes, int32_t weight, int32_t total, double unit, float* out);
};

const DenseKernels& dense_kernels(Isa isa);

}  // namespace sparsefl::codec
