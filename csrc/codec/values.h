// The value section of a chunk, as FORMAT.md has it: raw, or planes of bytes in byte codes, one of
// them by classes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "codec/format.h"
#include "codec/value_kernels.h"

namespace sparsefl::codec {

enum class ValueCoder : uint8_t { kRaw = 0, kPlanes = 1, kClasses = 2 };

// Values of one chunk: how they travel, and how they are rounded.
struct ValueSource {
  ValueMode mode;
  Dtype dtype;
  // Of the blocks that share a scale; 0 for modes without.
  uint8_t block_log2;
  // n values in memory, as memory_item_bytes says; they need no alignment.
  const uint8_t* values;
  size_t n;
  // Rounds bfloat16 and integers at random, unbiased; null: to nearest. draws->first is the number
  // of the tensor's values that lie in the chunks before, so that a value takes the same word
  // however a tensor is cut.
  const Draws* draws = nullptr;
  // Whether planes have classes even where these take more bytes.
  bool classes = false;
};

// How the values of one chunk stand in a section of `bytes` bytes.
struct ValueSection {
  ValueMode mode;
  Dtype dtype;
  uint8_t block_log2;
  uint8_t coder;
  const uint8_t* data;
  size_t bytes;
  size_t n;
};

// Memory that chunks use one after the other.
using ValueScratch = std::vector<uint8_t>;

// Whether the format has planes for values of the mode; signs and flips are bit strings.
bool has_value_section(ValueMode mode);

// Whether such a section may have the coder: words of sums have a fixed length.
bool has_value_coder(ValueMode mode, uint8_t coder, Profile profile);

// Appends a value section, in planes, by classes or not, where these take fewer bytes. False where
// a value has no place in its format (FORMAT.md: not finite, beyond the largest scale, a bool
// neither 0 nor 1); `out` is then as it was.
bool append_values(const ValueSource& source, Profile profile, ValueScratch* scratch,
                   std::vector<uint8_t>* out, ValueCoder* coder);

// How often each byte occurs in each plane of the values, [planes][256]: of floats the exponent,
// then the mantissa, the sign in the last; of blocks the exponents and mantissas of the scales,
// then the integers. False where a value has no place in its format. `draws` must be null.
bool count_values(const ValueSource& source, ValueScratch* scratch, std::vector<uint64_t>* counts);

// Writes section.n values as memory_item_bytes says. Reads nothing outside the section, whatever it
// holds, and takes memory and time for section.n values.
Reason read_values(const ValueSection& section, ValueScratch* scratch, uint8_t* values);

}  // namespace sparsefl::codec
