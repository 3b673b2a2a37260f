// Reads and writes messages in memory that the caller owns. Knows neither Python nor torch.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "codec/draws.h"
#include "codec/format.h"

namespace sparsefl::codec {

// Checks everything about a message but its chunk bodies: header, descriptors, directory, and that
// they agree with the local schema and cover `data` exactly. Allocates no more than the schema
// allows. `out` means nothing where the status is not ok.
Status parse(std::span<const uint8_t> data, uint64_t schema_fingerprint,
             std::span<const TensorSpec> schema, Message* out);

// Where the content of one descriptor goes.
struct Target {
  // Bitmap that the base has of a kShared or kChanges descriptor, ceil(numel / 8) bytes.
  const uint8_t* base = nullptr;
  // Signs that the base has, base_count times +1 or -1, of a kFlips descriptor.
  const int8_t* base_signs = nullptr;
  uint64_t base_count = 0;
  // Of a kSent or kChanges descriptor: receives ceil(numel / 8) bytes.
  uint8_t* bitmap = nullptr;
  // Receives count * memory_item_bytes bytes.
  uint8_t* values = nullptr;
};

// Checks and decodes all chunks of a parsed message. Where the status is not ok the targets hold
// nothing of use. `targets` has one entry a descriptor. Status and content do not depend on the
// number of threads, at least 1: chunks lie in memory of their own.
Status read(std::span<const uint8_t> data, std::span<const TensorSpec> schema,
            const Message& message, std::span<const Target> targets, size_t threads = 1);

// The content of one descriptor, to be written.
struct Source {
  uint32_t ordinal = 0;
  // kSent stands for kChanges too where there is a base_bitmap: write() takes what is smaller.
  SupportMode support = SupportMode::kDense;
  // kSign stands for kFlips too where there are base_signs.
  ValueMode value = ValueMode::kNone;
  float scale = 0.0f;
  // Number of values; of a kSeed descriptor, the seed.
  uint64_t count = 0;
  // Bitmap of the support, ceil(numel / 8) bytes; unused by kDense and kSeed.
  const uint8_t* bitmap = nullptr;
  // count values in memory, as memory_item_bytes says.
  const uint8_t* values = nullptr;
  // Bitmap of another support that the receiver has, or none.
  const uint8_t* base_bitmap = nullptr;
  // Signs that the receiver has on the same support, count times +1 or -1, or none.
  const int8_t* base_signs = nullptr;
  // Round values at random, draws->first belongs to the tensor's first; or to nearest.
  std::optional<Draws> draws;
};

// Values that share a scale in the messages that write() makes, as a power of two; 0 for modes
// without blocks.
uint8_t block_log2_of(ValueMode mode);

// A chunk's body, as a thread has coded it.
struct Piece {
  size_t thread, begin, size;
};

// A message that finish() completes: which base it refers to depends on the modes that were chosen.
struct Draft {
  // Room for the header, descriptors and directory.
  std::vector<uint8_t> tables;
  // What each thread has coded, and the chunks of it in the message's order.
  std::vector<std::vector<uint8_t>> bodies;
  std::vector<Piece> pieces;
  std::vector<Descriptor> descriptors;
  // The lowest minor version that has all that the message uses.
  uint16_t minor = 0;

  // Bytes of the message.
  size_t size() const;
};

// Writes descriptors, directory and bodies. `sources` go by increasing ordinal and their modes are
// allowed, which the caller has checked. Refuses values that the format has no bits for: a sign
// that is not +1 or -1, a value that is not finite or not in its format's range, a count that is
// not the bitmap's; `where` is then the position in `sources`. The message does not depend on the
// number of threads, at least 1.
Status write(std::span<const TensorSpec> schema, std::span<const Source> sources, Profile profile,
             Draft* out, size_t threads = 1);

// Writes a whole message into draft.size() bytes.
void finish(uint64_t schema_fingerprint, uint64_t base_fingerprint, uint32_t round, Profile profile,
            const Draft& draft, std::span<uint8_t> out);

}  // namespace sparsefl::codec
