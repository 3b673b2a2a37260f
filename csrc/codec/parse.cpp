// Header, descriptors and directory of a message: everything but its chunk bodies.
#include <algorithm>
#include <cstring>

#include "codec/bit_code.h"
#include "codec/crc32c.h"
#include "codec/message.h"
#include "codec/values.h"

namespace sparsefl::codec {
namespace {

using Bytes = std::span<const uint8_t>;

constexpr uint32_t kInfinityBits = 0x7F800000;

Status refuse(Reason reason, int64_t where = -1) { return Status{reason, where}; }

bool is_known(SupportMode mode) { return mode <= SupportMode::kSeed; }

bool is_known(ValueMode mode) { return mode <= ValueMode::kModular; }

// Checksum of header and tables with the checksum's own field read as zero.
uint32_t tables_checksum(Bytes tables) {
  const uint8_t zero[4] = {};
  const size_t after = header::kChecksumAt + sizeof zero;
  uint32_t crc = crc32c(tables.data(), header::kChecksumAt);
  crc = crc32c(zero, sizeof zero, crc);
  return crc32c(tables.data() + after, tables.size() - after, crc);
}

// The fields that say how to read the rest, before any of it is read.
Status check_envelope(Bytes data) {
  if (data.size() < kHeaderBytes) return refuse(Reason::kTruncated);
  const uint8_t* h = data.data();
  if (std::memcmp(h, kMagic, sizeof kMagic) != 0) return refuse(Reason::kMagic);
  if (load<uint16_t>(h + header::kMajorAt) != kMajor) return refuse(Reason::kVersion);
  const uint64_t total = load<uint64_t>(h + header::kTotalBytesAt);
  if (data.size() < total) return refuse(Reason::kTruncated);
  if (data.size() > total) return refuse(Reason::kLength);
  const uint64_t tables = kHeaderBytes +
                          uint64_t{kDescriptorBytes} * load<uint32_t>(h + header::kTensorsAt) +
                          uint64_t{kChunkBytes} * load<uint32_t>(h + header::kChunksAt);
  if (tables > total) return refuse(Reason::kTables);
  if (load<uint32_t>(h + header::kChecksumAt) != tables_checksum(data.first(tables)))
    return refuse(Reason::kHeaderChecksum);
  if (load<uint32_t>(h + header::kFlagsAt) & kCriticalFlags) return refuse(Reason::kFlags);
  if (load<uint32_t>(h + header::kProfileAt) > static_cast<uint32_t>(Profile::kRans))
    return refuse(Reason::kProfile);
  if (load<uint32_t>(h + header::kReservedAt) != 0) return refuse(Reason::kReserved);
  return {};
}

Reason check_scale(const Descriptor& d) {
  const uint32_t bits = std::bit_cast<uint32_t>(d.scale);
  if (d.scale_mode != scale_mode_of(d.value)) return Reason::kScale;
  // Infinity is the first of the bit patterns that are not finite or have the sign bit set.
  if (d.scale_mode == ScaleMode::kTensor ? bits >= kInfinityBits : bits != 0) return Reason::kScale;
  if (d.value == ValueMode::kModular && bits == 0) return Reason::kScale;
  if (d.scale_mode != ScaleMode::kBlock) return d.block_log2 == 0 ? Reason::kNone : Reason::kBlock;
  const bool in_range = d.block_log2 >= kMinBlockLog2 && d.block_log2 <= kMaxBlockLog2;
  return in_range ? Reason::kNone : Reason::kBlock;
}

Reason check_descriptor(const Descriptor& d, const TensorSpec& spec) {
  if (!is_known(d.support)) return Reason::kSupportMode;
  if (!is_known(d.value)) return Reason::kValueMode;
  if (!is_allowed(d.support, d.value, spec.dtype)) return Reason::kCombination;
  if (const Reason scale = check_scale(d); scale != Reason::kNone) return scale;
  if (d.support == SupportMode::kSeed) return d.span == 0 ? Reason::kNone : Reason::kSpan;
  if (d.span < kMinSpan || d.span > kMaxSpan || d.span % kSpanMultiple != 0) return Reason::kSpan;
  if (d.count > spec.numel) return Reason::kCount;
  if (d.support == SupportMode::kDense && d.count != spec.numel) return Reason::kCount;
  return Reason::kNone;
}

Descriptor load_descriptor(const uint8_t* from) {
  Descriptor d{};
  d.ordinal = load<uint32_t>(from + descriptor::kOrdinalAt);
  d.support = static_cast<SupportMode>(from[descriptor::kSupportAt]);
  d.value = static_cast<ValueMode>(from[descriptor::kValueAt]);
  d.span = load<uint32_t>(from + descriptor::kSpanAt);
  d.scale_mode = static_cast<ScaleMode>(from[descriptor::kScaleModeAt]);
  d.block_log2 = from[descriptor::kBlockAt];
  d.scale = load<float>(from + descriptor::kScaleAt);
  d.count = load<uint64_t>(from + descriptor::kCountAt);
  return d;
}

// Reads all descriptors and gives each its chunks.
Status parse_descriptors(Bytes data, std::span<const TensorSpec> schema, Message* out) {
  const uint32_t tensors = load<uint32_t>(data.data() + header::kTensorsAt);
  const uint32_t chunks = load<uint32_t>(data.data() + header::kChunksAt);
  uint64_t next_ordinal = 0;
  uint64_t next_chunk = 0;
  out->descriptors.reserve(std::min<size_t>(tensors, schema.size()));
  for (uint32_t i = 0; i < tensors; ++i) {
    Descriptor d = load_descriptor(data.data() + kHeaderBytes + i * kDescriptorBytes);
    if (d.ordinal < next_ordinal || d.ordinal >= schema.size()) return refuse(Reason::kOrdinal, i);
    const TensorSpec& spec = schema[d.ordinal];
    if (const Reason reason = check_descriptor(d, spec); reason != Reason::kNone)
      return refuse(reason, i);
    const uint64_t mine = chunks_of(d.support, spec.numel, d.span);
    if (mine > chunks - next_chunk) return refuse(Reason::kChunkCount, i);
    d.first_chunk = static_cast<uint32_t>(next_chunk);
    d.chunks = static_cast<uint32_t>(mine);
    next_chunk += mine;
    next_ordinal = uint64_t{d.ordinal} + 1;
    out->descriptors.push_back(d);
  }
  return next_chunk == chunks ? Status{} : refuse(Reason::kChunkCount);
}

// A coder that the profile has, and none where there is no code. The codes themselves are checked
// when they are read: none takes memory that its length in the message asks for.
Reason check_coders(const Chunk& c, const Descriptor& d, Profile profile) {
  const bool has_code = d.support == SupportMode::kSent;
  if (has_code ? !has_coder(static_cast<BitCoder>(c.support_coder), profile) : c.support_coder != 0)
    return Reason::kCoder;
  if (c.value_coder == 0) return Reason::kNone;
  const bool fits = is_sign(d.value) ? has_coder(static_cast<BitCoder>(c.value_coder - 1), profile)
                                     : has_value_section(d.value) &&
                                           has_value_coder(d.value, c.value_coder, profile);
  return fits ? Reason::kNone : Reason::kCoder;
}

// Sections of a length that does not depend on their content.
Reason check_lengths(const Chunk& c, const Descriptor& d, Dtype dtype) {
  if (!sends_support(d.support) && c.support_bytes != 0) return Reason::kSectionLength;
  if (c.value_coder != 0) return Reason::kNone;
  const uint64_t plain = value_section_bytes(d.value, dtype, c.count, d.block_log2);
  return c.value_bytes == plain ? Reason::kNone : Reason::kSectionLength;
}

Reason check_chunk(const Chunk& c, const Descriptor& d, Dtype dtype, Profile profile) {
  const uint64_t span = c.end - c.begin;
  if (c.count > span) return Reason::kCount;
  if (d.support == SupportMode::kDense && c.count != span) return Reason::kCount;
  if (const Reason reason = check_coders(c, d, profile); reason != Reason::kNone) return reason;
  return check_lengths(c, d, dtype);
}

// Reads the directory: bodies follow each other from its end to the end of the message.
Status parse_directory(Bytes data, std::span<const TensorSpec> schema, Message* out) {
  const size_t begin = kHeaderBytes + out->descriptors.size() * kDescriptorBytes;
  const uint32_t chunks = load<uint32_t>(data.data() + header::kChunksAt);
  const uint8_t* entry = data.data() + begin;
  uint64_t offset = begin + uint64_t{chunks} * kChunkBytes;
  out->chunks.reserve(chunks);
  for (size_t i = 0; i < out->descriptors.size(); ++i) {
    const Descriptor& d = out->descriptors[i];
    const TensorSpec& spec = schema[d.ordinal];
    uint64_t kept = 0;
    for (uint64_t j = 0; j < d.chunks; ++j, entry += kChunkBytes) {
      Chunk c{};
      c.begin = j * d.span;
      c.end = std::min<uint64_t>(spec.numel, (j + 1) * d.span);
      c.offset = offset;
      c.support_bytes = load<uint32_t>(entry + chunk::kSupportBytesAt);
      c.value_bytes = load<uint32_t>(entry + chunk::kValueBytesAt);
      c.count = load<uint32_t>(entry + chunk::kCountAt) & 0x00FFFFFF;
      c.support_coder = entry[chunk::kCodersAt] & 15;
      c.value_coder = entry[chunk::kCodersAt] >> 4;
      c.checksum = load<uint32_t>(entry + chunk::kChecksumAt);
      if (const Reason reason = check_chunk(c, d, spec.dtype, out->profile);
          reason != Reason::kNone)
        return refuse(reason, i);
      if (body_bytes(c) > data.size() - offset) return refuse(Reason::kCoverage, i);
      offset += body_bytes(c);
      kept += c.count;
      out->chunks.push_back(c);
    }
    if (d.support != SupportMode::kSeed && kept != d.count) return refuse(Reason::kCount, i);
  }
  return offset == data.size() ? Status{} : refuse(Reason::kCoverage);
}

bool uses_base(const Message& message) {
  return std::any_of(message.descriptors.begin(), message.descriptors.end(),
                     [](const Descriptor& d) { return takes_base(d.support); });
}

}  // namespace

Status parse(std::span<const uint8_t> data, uint64_t schema_fingerprint,
             std::span<const TensorSpec> schema, Message* out) {
  *out = Message{};
  if (const Status status = check_envelope(data); !status.ok()) return status;
  out->schema_fingerprint = load<uint64_t>(data.data() + header::kSchemaAt);
  out->base_fingerprint = load<uint64_t>(data.data() + header::kBaseAt);
  out->round = load<uint32_t>(data.data() + header::kRoundAt);
  out->profile = static_cast<Profile>(load<uint32_t>(data.data() + header::kProfileAt));
  out->total_bytes = data.size();
  if (out->schema_fingerprint != schema_fingerprint) return refuse(Reason::kSchema);
  if (const Status status = parse_descriptors(data, schema, out); !status.ok()) return status;
  if (const Status status = parse_directory(data, schema, out); !status.ok()) return status;
  return uses_base(*out) == (out->base_fingerprint != 0) ? Status{} : refuse(Reason::kBaseField);
}

}  // namespace sparsefl::codec
