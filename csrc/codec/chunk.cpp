#include "codec/chunk.h"

#include "codec/bits.h"
#include "codec/crc32c.h"

namespace sparsefl::codec {

std::vector<Body> bodies_of(std::span<const uint8_t> data, std::span<const TensorSpec> schema,
                            const Message& message) {
  std::vector<Body> bodies;
  bodies.reserve(message.chunks.size());
  for (size_t i = 0; i < message.descriptors.size(); ++i) {
    const Descriptor& d = message.descriptors[i];
    const TensorSpec& spec = schema[d.ordinal];
    const uint64_t row = spec.row != 0 && d.span % spec.row == 0 ? spec.row : 0;
    uint64_t done = 0;
    for (const Chunk& c : std::span(message.chunks).subspan(d.first_chunk, d.chunks)) {
      const Span span{c.end - c.begin, c.count, row};
      bodies.push_back(
          {&d, &c, i, done, spec.dtype, span, data.data() + c.offset, message.profile});
      done += c.count;
    }
  }
  return bodies;
}

bool is_intact(const Body& body) {
  return crc32c(body.data, body_bytes(*body.chunk)) == body.chunk->checksum;
}

Reason read_support(const Body& body, const uint8_t* base, ChunkMemory* memory, uint8_t* bits) {
  const Chunk& c = *body.chunk;
  const SupportMode mode = body.descriptor->support;
  if (takes_base(mode) && base == nullptr) return Reason::kBaseMissing;
  switch (mode) {
    case SupportMode::kShared:
      return popcount(base, (body.span.positions + 7) / 8) == c.count ? Reason::kNone
                                                                      : Reason::kBitmap;
    case SupportMode::kChanges:
      return read_changes(body.data, c.support_bytes, base, body.span, body.profile, &memory->bits,
                          bits);
    case SupportMode::kSent:
      return read_bit_code(static_cast<BitCoder>(c.support_coder), body.data, c.support_bytes,
                           body.span.positions, c.count, body.span.row, body.profile, &memory->bits,
                           bits);
    default:
      return Reason::kNone;
  }
}

Reason read_indices(const Body& body, const uint8_t* base, ChunkMemory* memory, uint32_t* indices) {
  const Chunk& c = *body.chunk;
  const SupportMode mode = body.descriptor->support;
  if (mode == SupportMode::kSent)
    return read_bit_indices(static_cast<BitCoder>(c.support_coder), body.data, c.support_bytes,
                            body.span.positions, c.count, body.span.row, body.profile,
                            &memory->bits, indices);
  if (mode == SupportMode::kChanges) memory->bitmap.resize((body.span.positions + 7) / 8);
  const Reason reason = read_support(body, base, memory, memory->bitmap.data());
  if (reason != Reason::kNone) return reason;
  indices_of(mode == SupportMode::kChanges ? memory->bitmap.data() : base, body.span.positions,
             indices);
  return Reason::kNone;
}

Reason read_body_values(const Body& body, const BaseSigns& base, ChunkMemory* memory,
                        uint8_t* values) {
  const Descriptor& d = *body.descriptor;
  const Chunk& c = *body.chunk;
  const uint8_t* section = body.data + c.support_bytes;
  if (d.value == ValueMode::kNone) return Reason::kNone;
  if (!is_sign(d.value))
    return read_values(
        {d.value, body.dtype, d.block_log2, c.value_coder, section, c.value_bytes, c.count},
        &memory->values, values);
  const int8_t* signs = nullptr;
  if (d.value == ValueMode::kFlips) {
    if (base.signs == nullptr) return Reason::kBaseMissing;
    // Then this chunk or one before it, which another thread may be reading, has not as many values
    // as the base.
    if (body.done + c.count > base.count) return Reason::kBitmap;
    signs = base.signs + body.done;
  }
  return read_packed_signs(c.value_coder, section, c.value_bytes, signs, c.count, body.profile,
                           &memory->bits, values);
}

}  // namespace sparsefl::codec
