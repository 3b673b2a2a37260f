// An arena: the elements of several tensors behind each other in memory, so that one launch serves
// all. Its bitmaps are cut into blocks of 1024 positions, a warp's work. Every tensor begins a
// block of its own: the bits of its last block past its last position are zero, and its bitmap,
// least significant bit first, lies in bytes of its own as a message has it.
#pragma once

#include <cstdint>

#include "cuda/host_device.h"

namespace sparsefl {

inline constexpr int kBlockPositions = 1024;
inline constexpr int kBlockWords = kBlockPositions / 32;

struct Arena {
  const int64_t* first_elements;  // [tensors + 1], increasing; null where there is one tensor
  const int64_t* first_blocks;    // [tensors + 1], increasing
  int64_t tensors;
  int64_t numel;   // elements of all
  int64_t blocks;  // of all
};

// Where the positions of a block lie.
struct Block {
  int64_t element;  // the first
  int positions;    // 1 to 1024
};

// `block` is below arena.blocks.
SPARSEFL_HOST_DEVICE Block block_at(const Arena& arena, int64_t block) {
  int64_t element = block * kBlockPositions, end = arena.numel;
  if (arena.first_elements != nullptr) {
    // The last tensor that begins at this block or before: those of no elements have no block.
    int64_t low = 0, high = arena.tensors;
    while (high - low > 1) {
      const int64_t middle = low + (high - low) / 2;
      if (arena.first_blocks[middle] <= block) {
        low = middle;
      } else {
        high = middle;
      }
    }
    element =
        arena.first_elements[low] + (block - arena.first_blocks[low]) * int64_t{kBlockPositions};
    end = arena.first_elements[low + 1];
  }
  const int64_t left = end - element;
  return {element, left < kBlockPositions ? static_cast<int>(left) : kBlockPositions};
}

}  // namespace sparsefl
