// The chunk bodies of a message that parse() accepted.
#include <algorithm>
#include <cstring>

#include "codec/bits.h"
#include "codec/crc32c.h"
#include "codec/message.h"
#include "codec/sections.h"
#include "codec/values.h"

namespace sparsefl::codec {
namespace {

// One chunk and what its content is decoded with.
struct Body {
  const uint8_t* data;
  Chunk chunk;
  Span span;
};

Reason read_support(const Body& body, SupportMode mode, const Target& target, Scratch* scratch) {
  const Chunk& c = body.chunk;
  if (mode == SupportMode::kDense) return Reason::kNone;
  const uint8_t* base = nullptr;
  if (takes_base(mode)) {
    if (target.base == nullptr) return Reason::kBaseMissing;
    base = target.base + c.begin / 8;
  }
  switch (mode) {
    case SupportMode::kShared:
      return popcount(base, (body.span.positions + 7) / 8) == c.count ? Reason::kNone
                                                                      : Reason::kBitmap;
    case SupportMode::kChanges:
      return read_changes(body.data, c.support_bytes, base, body.span, scratch,
                          target.bitmap + c.begin / 8);
    default:
      return read_bit_code(static_cast<BitCoder>(c.support_coder), body.data, c.support_bytes,
                           body.span.positions, c.count, body.span.row, scratch,
                           target.bitmap + c.begin / 8);
  }
}

// Memory that chunks use one after the other.
struct Memory {
  Scratch bits;
  ValueScratch values;
};

// Checks and decodes one chunk; `done` values of the tensor lie in the chunks before it.
Reason read_chunk(const Body& body, const Descriptor& d, Dtype dtype, uint64_t done,
                  const Target& target, Memory* scratch) {
  const Chunk& c = body.chunk;
  if (crc32c(body.data, body_bytes(c)) != c.checksum) return Reason::kChunkChecksum;
  const Reason reason = read_support(body, d.support, target, &scratch->bits);
  if (reason != Reason::kNone || d.value == ValueMode::kNone) return reason;
  const uint8_t* section = body.data + c.support_bytes;
  uint8_t* values = target.values + done * memory_item_bytes(d.value, dtype);
  if (!is_sign(d.value)) {
    return read_values(
        {d.value, dtype, d.block_log2, c.value_coder, section, c.value_bytes, c.count},
        &scratch->values, values);
  }
  const int8_t* base = nullptr;
  if (d.value == ValueMode::kFlips) {
    if (target.base_signs == nullptr) return Reason::kBaseMissing;
    base = target.base_signs + done;
  }
  return read_signs(c.value_coder, section, c.value_bytes, base, c.count, &scratch->bits,
                    reinterpret_cast<int8_t*>(values));
}

}  // namespace

Status read(std::span<const uint8_t> data, std::span<const TensorSpec> schema,
            const Message& message, std::span<const Target> targets) {
  Memory scratch;
  for (size_t i = 0; i < message.descriptors.size(); ++i) {
    const Descriptor& d = message.descriptors[i];
    const TensorSpec& spec = schema[d.ordinal];
    const uint64_t row = spec.row != 0 && d.span % spec.row == 0 ? spec.row : 0;
    uint64_t done = 0;
    for (const Chunk& c : std::span(message.chunks).subspan(d.first_chunk, d.chunks)) {
      const Body body{data.data() + c.offset, c, Span{c.end - c.begin, c.count, row}};
      const Reason reason = read_chunk(body, d, spec.dtype, done, targets[i], &scratch);
      if (reason != Reason::kNone) return Status{reason, static_cast<int64_t>(i)};
      done += c.count;
    }
  }
  return {};
}

}  // namespace sparsefl::codec
