// The chunk bodies of a message that parse() accepted.
#include <algorithm>
#include <cstring>

#include "codec/bits.h"
#include "codec/blocks.h"
#include "codec/crc32c.h"
#include "codec/floats.h"
#include "codec/message.h"
#include "codec/rice.h"

namespace sparsefl::codec {
namespace {

bool is_zero(const uint8_t* data, size_t bytes) {
  return std::all_of(data, data + bytes, [](uint8_t b) { return b == 0; });
}

Reason reason_of(RiceStatus status) {
  if (status == RiceStatus::kOk) return Reason::kNone;
  return status == RiceStatus::kPadding ? Reason::kPadding : Reason::kCode;
}

// Writes the bitmap of a span that the message holds.
Reason read_bitmap(const uint8_t* section, const Chunk& c, uint8_t* bitmap) {
  const uint64_t span = c.end - c.begin;
  const size_t bytes = (span + 7) / 8;
  if (c.count == span) {
    fill_bits(span, bitmap);
    return Reason::kNone;
  }
  if (c.count == 0 || c.parameter != 0) std::memset(bitmap, 0, bytes);
  if (c.count == 0) return Reason::kNone;
  if (c.parameter != 0)
    return reason_of(read_rice(section, c.support_bytes, c.count, c.parameter, span, bitmap));
  std::memcpy(bitmap, section, bytes);
  if (!tail_is_zero(bitmap, span)) return Reason::kPadding;
  return popcount(bitmap, bytes) == c.count ? Reason::kNone : Reason::kBitmap;
}

Reason read_support(const uint8_t* section, const Chunk& c, SupportMode mode,
                    const Target& target) {
  if (sends_support(mode)) return read_bitmap(section, c, target.bitmap + c.begin / 8);
  if (mode != SupportMode::kShared) return Reason::kNone;
  if (target.base == nullptr) return Reason::kBaseMissing;
  const size_t bytes = (c.end - c.begin + 7) / 8;
  return popcount(target.base + c.begin / 8, bytes) == c.count ? Reason::kNone : Reason::kBitmap;
}

// Finds the flips of a chunk, a bit a value; `held` keeps them where the section does not.
Reason read_flip_bits(const uint8_t* section, const Chunk& c, std::vector<uint8_t>* held,
                      const uint8_t** flips) {
  const size_t bytes = (c.count + 7) / 8;
  *flips = section;
  if (c.value_bytes != 0 && c.parameter == 0) {
    if (!tail_is_zero(section, c.count)) return Reason::kPadding;
    return popcount(section, bytes) != 0 ? Reason::kNone : Reason::kCode;
  }
  held->assign(bytes, 0);
  *flips = held->data();
  if (c.value_bytes == 0) return Reason::kNone;
  uint32_t count = 0;
  std::memcpy(&count, section, kFlipCountBytes);
  const uint64_t code_bytes = c.value_bytes - kFlipCountBytes;
  if (count == 0 || code_bytes < min_rice_bytes(count, c.parameter)) return Reason::kCode;
  return reason_of(
      read_rice(section + kFlipCountBytes, code_bytes, count, c.parameter, c.count, held->data()));
}

Reason read_flips(const uint8_t* section, const Chunk& c, const int8_t* base, int8_t* signs) {
  if (base == nullptr) return Reason::kBaseMissing;
  std::vector<uint8_t> held;
  const uint8_t* flips = nullptr;
  const Reason reason = read_flip_bits(section, c, &held, &flips);
  if (reason == Reason::kNone) unpack_flips(flips, base, c.count, signs);
  return reason;
}

Reason read_values(const uint8_t* from, size_t n, const Descriptor& d, Dtype dtype,
                   uint8_t* values) {
  switch (d.value) {
    case ValueMode::kSign:
      unpack_signs(from, n, reinterpret_cast<int8_t*>(values));
      return tail_is_zero(from, n) ? Reason::kNone : Reason::kPadding;
    case ValueMode::kFp32:
      return copy_checked(Dtype::kFloat32, from, n, values) ? Reason::kNone : Reason::kValue;
    case ValueMode::kBf16:
      return from_bf16(from, n, values) ? Reason::kNone : Reason::kValue;
    case ValueMode::kInt8:
    case ValueMode::kInt4:
      return from_blocks(d.value, from, n, d.block_log2, values);
    case ValueMode::kRaw:
      return copy_checked(dtype, from, n, values) ? Reason::kNone : Reason::kValue;
    case ValueMode::kNone:
    case ValueMode::kFlips:
      return Reason::kNone;
  }
  return Reason::kValueMode;
}

// Checks and decodes one chunk; `done` values of the tensor lie in the chunks before it.
Reason read_chunk(const uint8_t* body, const Chunk& c, const Descriptor& d, Dtype dtype,
                  uint64_t done, const Target& target) {
  const uint8_t* section = body + padded(c.support_bytes);
  if (crc32c(body, body_bytes(c)) != c.checksum) return Reason::kChunkChecksum;
  if (!is_zero(body + c.support_bytes, padded(c.support_bytes) - c.support_bytes) ||
      !is_zero(section + c.value_bytes, padded(c.value_bytes) - c.value_bytes))
    return Reason::kPadding;
  const Reason reason = read_support(body, c, d.support, target);
  if (reason != Reason::kNone || c.count == 0) return reason;
  uint8_t* values = target.values + done * memory_item_bytes(d.value, dtype);
  if (d.value != ValueMode::kFlips) return read_values(section, c.count, d, dtype, values);
  const int8_t* base = target.base_signs == nullptr ? nullptr : target.base_signs + done;
  return read_flips(section, c, base, reinterpret_cast<int8_t*>(values));
}

}  // namespace

Status read(std::span<const uint8_t> data, std::span<const TensorSpec> schema,
            const Message& message, std::span<const Target> targets) {
  for (size_t i = 0; i < message.descriptors.size(); ++i) {
    const Descriptor& d = message.descriptors[i];
    uint64_t done = 0;
    for (const Chunk& c : std::span(message.chunks).subspan(d.first_chunk, d.chunks)) {
      const Reason reason =
          read_chunk(data.data() + c.offset, c, d, schema[d.ordinal].dtype, done, targets[i]);
      if (reason != Reason::kNone) return Status{reason, static_cast<int64_t>(i)};
      done += c.count;
    }
  }
  return {};
}

}  // namespace sparsefl::codec
