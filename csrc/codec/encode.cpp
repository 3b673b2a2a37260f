#include <algorithm>
#include <cstring>

#include "codec/bits.h"
#include "codec/crc32c.h"
#include "codec/floats.h"
#include "codec/message.h"

namespace sparsefl::codec {
namespace {

// A chunk should hold this much, so that its 16 bytes of directory stay below .03 % of it.
constexpr double kChunkPayloadBytes = 64 * 1024;

uint64_t payload_bytes(const Source& s, const TensorSpec& spec) {
  const uint64_t bitmap = s.support == SupportMode::kBitmap ? (spec.numel + 7) / 8 : 0;
  return bitmap + value_section_bytes(s.value, spec.dtype, s.count);
}

// The smallest span that covers the tensor, or whose chunks hold kChunkPayloadBytes on average.
uint8_t choose_span_log2(const Source& s, const TensorSpec& spec) {
  if (s.support == SupportMode::kSeed) return 0;
  const double payload = static_cast<double>(payload_bytes(s, spec));
  const double wanted = kChunkPayloadBytes * static_cast<double>(spec.numel);
  uint8_t span_log2 = kMinSpanLog2;
  while (span_log2 < kMaxSpanLog2 && (1ull << span_log2) < spec.numel &&
         payload * static_cast<double>(1ull << span_log2) < wanted)
    ++span_log2;
  return span_log2;
}

uint32_t count_chunk(const Source& s, const Chunk& c) {
  if (s.support == SupportMode::kDense) return static_cast<uint32_t>(c.end - c.begin);
  return static_cast<uint32_t>(popcount(s.bitmap + c.begin / 8, (c.end - c.begin + 7) / 8));
}

void store_header(const Message& message, uint8_t* out) {
  std::memset(out, 0, kHeaderBytes);
  std::memcpy(out, kMagic, sizeof kMagic);
  store(out + header::kMajorAt, kMajor);
  store(out + header::kMinorAt, kMinor);
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
  store(out + descriptor::kScaleAt, d.scale);
  store(out + descriptor::kCountAt, d.count);
}

void store_chunk(const Chunk& c, uint32_t checksum, uint8_t* out) {
  store(out + chunk::kSupportBytesAt, c.support_bytes);
  store(out + chunk::kValueBytesAt, c.value_bytes);
  store(out + chunk::kCountAt, c.count);  // its fourth byte, the parameter, is zero
  store(out + chunk::kChecksumAt, checksum);
}

bool write_values(const uint8_t* from, size_t n, ValueMode mode, Dtype dtype, uint8_t* out) {
  switch (mode) {
    case ValueMode::kNone:
      return true;
    case ValueMode::kSign:
      return pack_signs(reinterpret_cast<const int8_t*>(from), n, out);
    case ValueMode::kFp32:
      return copy_checked(Dtype::kFloat32, from, n, out);
    case ValueMode::kBf16:
      return to_bf16(from, n, out);
    case ValueMode::kRaw:
      return copy_checked(dtype, from, n, out);
  }
  return false;
}

// Writes the two sections of a chunk and their padding. `values` are those of this chunk.
bool write_body(const Source& s, const Chunk& c, Dtype dtype, const uint8_t* values,
                uint8_t* body) {
  uint8_t* section = body + padded(c.support_bytes);
  uint8_t* end = section + padded(c.value_bytes);
  if (c.support_bytes != 0) std::memcpy(body, s.bitmap + c.begin / 8, c.support_bytes);
  std::memset(body + c.support_bytes, 0, section - (body + c.support_bytes));
  std::memset(section + c.value_bytes, 0, end - (section + c.value_bytes));
  return c.count == 0 || write_values(values, c.count, s.value, dtype, section);
}

}  // namespace

Message lay_out(std::span<const TensorSpec> schema, std::span<const Source> sources) {
  Message message;
  message.descriptors.reserve(sources.size());
  for (const Source& s : sources) {
    const TensorSpec& spec = schema[s.ordinal];
    Descriptor d{};
    d.ordinal = s.ordinal;
    d.support = s.support;
    d.value = s.value;
    d.span_log2 = choose_span_log2(s, spec);
    d.scale_mode = s.value == ValueMode::kSign ? ScaleMode::kTensor : ScaleMode::kNone;
    d.scale = s.value == ValueMode::kSign ? s.scale : 0.0f;
    d.count = s.count;
    d.first_chunk = static_cast<uint32_t>(message.chunks.size());
    d.chunks = static_cast<uint32_t>(chunks_of(d.support, spec.numel, d.span_log2));
    for (uint64_t j = 0; j < d.chunks; ++j) {
      Chunk c{};
      c.begin = j << d.span_log2;
      c.end = std::min<uint64_t>(spec.numel, (j + 1) << d.span_log2);
      c.count = count_chunk(s, c);
      if (d.support == SupportMode::kBitmap)
        c.support_bytes = static_cast<uint32_t>(bitmap_section_bytes(c.end - c.begin, c.count));
      c.value_bytes = static_cast<uint32_t>(value_section_bytes(d.value, spec.dtype, c.count));
      message.chunks.push_back(c);
    }
    message.descriptors.push_back(d);
  }
  message.total_bytes = kHeaderBytes + message.descriptors.size() * kDescriptorBytes +
                        message.chunks.size() * kChunkBytes;
  for (Chunk& c : message.chunks) {
    c.offset = message.total_bytes;
    message.total_bytes += body_bytes(c);
  }
  return message;
}

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
    const Dtype dtype = schema[d.ordinal].dtype;
    const uint8_t* values = sources[i].values;
    for (const Chunk& c : std::span(message.chunks).subspan(d.first_chunk, d.chunks)) {
      if (!write_body(sources[i], c, dtype, values, out + c.offset))
        return Status{Reason::kValue, static_cast<int64_t>(i)};
      if (values != nullptr) values += c.count * memory_item_bytes(d.value, dtype);
      store_chunk(c, crc32c(out + c.offset, body_bytes(c)), entry);
      entry += kChunkBytes;
    }
  }
  store(out + header::kChecksumAt, crc32c(out, static_cast<size_t>(entry - out)));
  return {};
}

}  // namespace sparsefl::codec
