// The bytes of a message that lay_out() made.
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

// The lowest minor version that has the modes of the descriptor.
uint16_t minor_of(const Descriptor& d) {
  const bool is_later =
      d.support == SupportMode::kCoded || d.value == ValueMode::kFlips || is_block_scaled(d.value);
  return is_later ? 1 : 0;
}

void store_header(const Message& message, uint8_t* out) {
  uint16_t minor = 0;
  for (const Descriptor& d : message.descriptors) minor = std::max(minor, minor_of(d));
  std::memset(out, 0, kHeaderBytes);
  std::memcpy(out, kMagic, sizeof kMagic);
  store(out + header::kMajorAt, kMajor);
  store(out + header::kMinorAt, minor);
  store(out + header::kTotalBytesAt, message.total_bytes);
  store(out + header::kSchemaAt, message.schema_fingerprint);
  store(out + header::kBaseAt, message.base_fingerprint);
  store(out + header::kRoundAt, message.round);
  store(out + header::kTensorsAt, static_cast<uint32_t>(message.descriptors.size()));
  store(out + header::kChunksAt, static_cast<uint32_t>(message.chunks.size()));
}

void store_descriptor(const Descriptor& d, uint8_t* out) {
  std::memset(out, 0, kDescriptorBytes);
  store(out + descriptor::kOrdinalAt, d.ordinal);
  out[descriptor::kSupportAt] = static_cast<uint8_t>(d.support);
  out[descriptor::kValueAt] = static_cast<uint8_t>(d.value);
  out[descriptor::kSpanAt] = d.span_log2;
  out[descriptor::kScaleModeAt] = static_cast<uint8_t>(d.scale_mode);
  out[descriptor::kBlockAt] = d.block_log2;
  store(out + descriptor::kScaleAt, d.scale);
  store(out + descriptor::kCountAt, d.count);
}

void store_chunk(const Chunk& c, uint32_t checksum, uint8_t* out) {
  store(out + chunk::kSupportBytesAt, c.support_bytes);
  store(out + chunk::kValueBytesAt, c.value_bytes);
  store(out + chunk::kCountAt, c.count);
  out[chunk::kParameterAt] = c.parameter;  // the fourth byte of the count is not used
  store(out + chunk::kChecksumAt, checksum);
}

// Writes the code that lay_out chose for the `count` set bits of `bits` [0, n).
void write_code(const uint8_t* bits, uint64_t n, uint64_t count, RiceChoice choice, uint8_t* out) {
  std::vector<uint32_t> gaps(count);
  write_rice(gaps.data(), gaps_of(bits, n, gaps.data()), choice, out);
}

void write_support(const Source& s, const Chunk& c, uint8_t* section) {
  const uint8_t* bitmap = s.bitmap + c.begin / 8;
  if (c.parameter == 0)
    std::memcpy(section, bitmap, c.support_bytes);
  else
    write_code(bitmap, c.end - c.begin, c.count, {c.parameter, c.support_bytes}, section);
}

bool write_flips(const int8_t* signs, const int8_t* base, const Chunk& c, uint8_t* section) {
  std::vector<uint8_t> bits((c.count + 7) / 8);
  if (!pack_flips(signs, base, c.count, bits.data())) return false;
  if (c.parameter == 0) {
    std::copy_n(bits.begin(), c.value_bytes, section);
    return true;
  }
  const uint64_t flips = popcount(bits.data(), bits.size());
  std::memcpy(section, &flips, kFlipCountBytes);
  write_code(bits.data(), c.count, flips, {c.parameter, c.value_bytes - kFlipCountBytes},
             section + kFlipCountBytes);
  return true;
}

bool write_values(const uint8_t* from, size_t n, const Descriptor& d, Dtype dtype, uint8_t* out) {
  switch (d.value) {
    case ValueMode::kNone:
    case ValueMode::kFlips:
      return true;
    case ValueMode::kSign:
      return pack_signs(reinterpret_cast<const int8_t*>(from), n, out);
    case ValueMode::kFp32:
      return copy_checked(Dtype::kFloat32, from, n, out);
    case ValueMode::kBf16:
      return to_bf16(from, n, out);
    case ValueMode::kInt8:
    case ValueMode::kInt4:
      return to_blocks(d.value, from, n, d.block_log2, out);
    case ValueMode::kRaw:
      return copy_checked(dtype, from, n, out);
  }
  return false;
}

// Writes the two sections of a chunk and their padding; `done` values of the tensor lie in the
// chunks before it.
bool write_body(const Source& s, const Chunk& c, const Descriptor& d, Dtype dtype, uint64_t done,
                uint8_t* body) {
  uint8_t* section = body + padded(c.support_bytes);
  uint8_t* end = section + padded(c.value_bytes);
  std::memset(body + c.support_bytes, 0, static_cast<size_t>(section - body) - c.support_bytes);
  std::memset(section + c.value_bytes, 0, static_cast<size_t>(end - section) - c.value_bytes);
  if (c.support_bytes != 0) write_support(s, c, body);
  if (c.count == 0 || d.value == ValueMode::kNone) return true;
  const uint8_t* values = s.values + done * memory_item_bytes(d.value, dtype);
  if (d.value != ValueMode::kFlips) return write_values(values, c.count, d, dtype, section);
  return write_flips(reinterpret_cast<const int8_t*>(values), s.base_signs + done, c, section);
}

}  // namespace

Status write(std::span<const TensorSpec> schema, std::span<const Source> sources,
             const Message& message, uint8_t* out) {
  store_header(message, out);
  uint8_t* entry = out + kHeaderBytes;
  for (const Descriptor& d : message.descriptors) {
    store_descriptor(d, entry);
    entry += kDescriptorBytes;
  }
  for (size_t i = 0; i < sources.size(); ++i) {
    const Descriptor& d = message.descriptors[i];
    uint64_t done = 0;
    for (const Chunk& c : std::span(message.chunks).subspan(d.first_chunk, d.chunks)) {
      uint8_t* body = out + c.offset;
      if (!write_body(sources[i], c, d, schema[d.ordinal].dtype, done, body))
        return Status{Reason::kValue, static_cast<int64_t>(i)};
      done += c.count;
      store_chunk(c, crc32c(body, body_bytes(c)), entry);
      entry += kChunkBytes;
    }
  }
  store(out + header::kChecksumAt, crc32c(out, static_cast<size_t>(entry - out)));
  return {};
}

}  // namespace sparsefl::codec
