// One chunk of a parsed message: its checks, its support, its values.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "codec/bit_code.h"
#include "codec/format.h"
#include "codec/sections.h"
#include "codec/values.h"

namespace sparsefl::codec {

// Memory that chunks use one after the other.
struct ChunkMemory {
  Scratch bits;
  ValueScratch values;
  std::vector<uint8_t> bitmap;
};

// One chunk, and what its content is decoded with.
struct Body {
  const Descriptor* descriptor;
  const Chunk* chunk;
  // Position of the descriptor in the message.
  size_t where;
  // Values of the tensor that lie in the chunks before.
  uint64_t done;
  Dtype dtype;
  Span span;
  // The chunk's bytes.
  const uint8_t* data;
  Profile profile;
};

// All chunks of a message, in order.
std::vector<Body> bodies_of(std::span<const uint8_t> data, std::span<const TensorSpec> schema,
                            const Message& message);

// Whether the checksum is right.
bool is_intact(const Body& body);

// Checks the support, and writes its bitmap where the message sends it. `base` is the bitmap of the
// chunk's positions that the base has, null for none.
Reason read_support(const Body& body, const uint8_t* base, ChunkMemory* memory, uint8_t* bits);

// The same; writes the chunk.count positions of a chunk of mode kShared, kSent or kChanges, counted
// from its first one.
Reason read_indices(const Body& body, const uint8_t* base, ChunkMemory* memory, uint32_t* indices);

// Signs that the base has of a tensor's values, as Target says.
struct BaseSigns {
  const int8_t* signs;
  uint64_t count;
};

// Writes the values as memory_item_bytes says; signs packed, a bit set for each -1.
Reason read_body_values(const Body& body, const BaseSigns& base, ChunkMemory* memory,
                        uint8_t* values);

}  // namespace sparsefl::codec
