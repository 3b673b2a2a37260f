// Updates to messages: descriptors, directory and bodies, each chunk's codes by their exact cost.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "codec/bits.h"
#include "codec/crc32c.h"
#include "codec/message.h"
#include "codec/sections.h"
#include "codec/values.h"

namespace sparsefl::codec {
namespace {

// A chunk should hold this much, so that its directory entry and the states of its coders stay
// below .2 % of it.
constexpr double kChunkPayloadBytes = 256 * 1024;
// A scale of 2 bytes for int8 is then .2 %; for int4, whose error needs small blocks, 6 %.
constexpr uint8_t kInt8BlockLog2 = 10;
constexpr uint8_t kTernaryBlockLog2 = 10;
constexpr uint8_t kInt4BlockLog2 = 6;
// Tiles are at most this many rows high, so spans of as many rows hold whole ones.
constexpr uint64_t kTileRows = 128;

// One section of each chunk of a tensor, one after the other.
struct Sections {
  std::vector<uint8_t> bytes;
  std::vector<size_t> ends;
  std::vector<uint8_t> coders;

  void close(uint8_t coder) {
    ends.push_back(bytes.size());
    coders.push_back(coder);
  }
  size_t begin_of(size_t i) const { return i == 0 ? 0 : ends[i - 1]; }
  uint32_t bytes_of(size_t i) const { return static_cast<uint32_t>(ends[i] - begin_of(i)); }
};

// About what a support takes: 2 bits and the lower bits of the mean distance for each position.
uint64_t support_bytes(const Source& s, const TensorSpec& spec) {
  if (s.support != SupportMode::kSent) return 0;
  const uint64_t coded =
      s.count == 0 ? 0 : s.count * static_cast<uint64_t>(1 + std::bit_width(spec.numel / s.count));
  return (std::min(spec.numel, coded) + 7) / 8;
}

// The largest multiple of whole rows, or tiles of them, below the wanted span; else the span.
uint32_t align_to_rows(uint32_t span, uint64_t row) {
  if (row == 0) return span;
  for (const uint64_t rows : {kTileRows, uint64_t{1}}) {
    const uint64_t unit = std::lcm(rows * row, uint64_t{kSpanMultiple});
    if (unit > kMaxSpan) continue;
    const uint64_t whole = std::max<uint64_t>(span / unit, 1) * unit;
    return static_cast<uint32_t>((whole < kMinSpan ? (kMinSpan + unit - 1) / unit * unit : whole));
  }
  return span;
}

// Spans of whole rows whose chunks hold about kChunkPayloadBytes.
uint32_t choose_span(const Source& s, const TensorSpec& spec) {
  if (s.support == SupportMode::kSeed) return 0;
  const uint64_t values = value_section_bytes(s.value, spec.dtype, s.count, block_log2_of(s.value));
  const double payload = static_cast<double>(support_bytes(s, spec) + values);
  const double wanted = kChunkPayloadBytes * static_cast<double>(spec.numel);
  uint32_t span = kMinSpan;
  while (span < kMaxSpan && span < spec.numel && payload * static_cast<double>(span) < wanted)
    span *= 2;
  return align_to_rows(span, spec.row);
}

Descriptor describe(const Source& s, const TensorSpec& spec) {
  Descriptor d{};
  d.ordinal = s.ordinal;
  d.support = s.support;
  d.value = s.value;
  d.span = choose_span(s, spec);
  d.scale_mode = scale_mode_of(s.value);
  d.block_log2 = block_log2_of(s.value);
  d.scale = d.scale_mode == ScaleMode::kTensor ? s.scale : 0.0f;
  d.count = s.count;
  d.chunks = static_cast<uint32_t>(chunks_of(d.support, spec.numel, d.span));
  return d;
}

// Writes one tensor after the other.
class Writer {
 public:
  Writer(std::span<const TensorSpec> schema, Profile profile, Draft* out)
      : schema_(schema), profile_(profile), out_(out) {}

  Status run(std::span<const Source> sources) {
    for (const Source& s : sources) {
      Descriptor d = describe(s, schema_[s.ordinal]);
      d.first_chunk = static_cast<uint32_t>(chunks_);
      chunks_ += d.chunks;
      out_->descriptors.push_back(d);
    }
    entry_ = kHeaderBytes + sources.size() * kDescriptorBytes;
    out_->bytes.assign(entry_ + chunks_ * kChunkBytes, 0);
    for (size_t i = 0; i < sources.size(); ++i) {
      const Status status = write_tensor(sources[i], &out_->descriptors[i]);
      if (!status.ok()) return Status{status.reason, static_cast<int64_t>(i)};
      store_descriptor(out_->descriptors[i],
                       out_->bytes.data() + kHeaderBytes + i * kDescriptorBytes);
    }
    return {};
  }

 private:
  Status write_tensor(const Source& s, Descriptor* d) {
    if (s.support == SupportMode::kSeed) return {};
    const TensorSpec& spec = schema_[s.ordinal];
    spans_.clear();
    for (uint64_t begin = 0; begin < spec.numel; begin += d->span) {
      Span span{std::min<uint64_t>(d->span, spec.numel - begin), 0, 0};
      const uint8_t* bits = s.bitmap == nullptr ? nullptr : s.bitmap + begin / 8;
      span.count = bits == nullptr ? span.positions : popcount(bits, (span.positions + 7) / 8);
      if (spec.row != 0 && d->span % spec.row == 0) span.row = spec.row;
      spans_.push_back(span);
    }
    uint64_t kept = 0;
    for (const Span& span : spans_) kept += span.count;
    if (kept != s.count) return Status{Reason::kCount};
    const Sections supports = choose_supports(s, d);
    Sections values;
    if (const Status status = choose_values(s, spec.dtype, d, &values); !status.ok()) return status;
    append_bodies(supports, values);
    return {};
  }

  Sections choose_supports(const Source& s, Descriptor* d) {
    Sections sent;
    const bool sends = s.support == SupportMode::kSent;
    uint64_t begin = 0;
    for (const Span& span : spans_) {
      const uint8_t* bits = s.bitmap + begin / 8;
      sent.close(sends ? append_sent(bits, span, profile_, &scratch_, &sent.bytes) : 0);
      begin += span.positions;
    }
    if (!sends || s.base_bitmap == nullptr) return sent;
    Sections changes;
    begin = 0;
    for (const Span& span : spans_) {
      append_changes(s.bitmap + begin / 8, s.base_bitmap + begin / 8, span, profile_, &scratch_,
                     &changes.bytes);
      changes.close(0);
      begin += span.positions;
    }
    if (changes.bytes.size() >= sent.bytes.size()) return sent;
    d->support = SupportMode::kChanges;
    return changes;
  }

  Status choose_values(const Source& s, Dtype dtype, Descriptor* d, Sections* values) {
    if (s.value != ValueMode::kSign) return append_all_values(s, dtype, *d, values);
    if (!append_all_signs(s, nullptr, values)) return Status{Reason::kValue};
    if (s.base_signs == nullptr) return {};
    Sections flips;
    append_all_signs(s, s.base_signs, &flips);
    if (flips.bytes.size() >= values->bytes.size()) return {};
    d->value = ValueMode::kFlips;
    *values = std::move(flips);
    return {};
  }

  bool append_all_signs(const Source& s, const int8_t* base, Sections* out) {
    const auto* signs = reinterpret_cast<const int8_t*>(s.values);
    bool valid = true;
    uint64_t done = 0;
    for (const Span& span : spans_) {
      const int8_t* theirs = base == nullptr ? nullptr : base + done;
      out->close(
          append_signs(signs + done, theirs, span.count, profile_, &scratch_, &out->bytes, &valid));
      done += span.count;
    }
    return valid;
  }

  Status append_all_values(const Source& s, Dtype dtype, const Descriptor& d, Sections* out) {
    uint64_t done = 0;
    for (const Span& span : spans_) {
      const uint8_t* values = s.values + done * memory_item_bytes(s.value, dtype);
      Draws draws = s.draws.value_or(Draws{});
      draws.first += done;
      const ValueSource source{s.value, dtype,      d.block_log2,
                               values,  span.count, s.draws ? &draws : nullptr};
      ValueCoder coder = ValueCoder::kRaw;
      if (s.value != ValueMode::kNone &&
          !append_values(source, profile_, &value_scratch_, &out->bytes, &coder))
        return Status{Reason::kValue};
      out->close(static_cast<uint8_t>(coder));
      done += span.count;
    }
    return {};
  }

  // Appends the bodies of a tensor's chunks and fills in their directory entries.
  void append_bodies(const Sections& supports, const Sections& values) {
    std::vector<uint8_t>& bytes = out_->bytes;
    for (size_t i = 0; i < spans_.size(); ++i, entry_ += kChunkBytes) {
      const size_t body = bytes.size();
      for (const Sections* part : {&supports, &values})
        bytes.insert(bytes.end(), part->bytes.begin() + static_cast<ptrdiff_t>(part->begin_of(i)),
                     part->bytes.begin() + static_cast<ptrdiff_t>(part->ends[i]));
      uint8_t* entry = bytes.data() + entry_;
      store(entry + chunk::kSupportBytesAt, supports.bytes_of(i));
      store(entry + chunk::kValueBytesAt, values.bytes_of(i));
      store(entry + chunk::kCountAt, static_cast<uint32_t>(spans_[i].count));
      entry[chunk::kCodersAt] = static_cast<uint8_t>(supports.coders[i] | (values.coders[i] << 4));
      store(entry + chunk::kChecksumAt, crc32c(bytes.data() + body, bytes.size() - body));
    }
  }

  static void store_descriptor(const Descriptor& d, uint8_t* out) {
    store(out + descriptor::kOrdinalAt, d.ordinal);
    out[descriptor::kSupportAt] = static_cast<uint8_t>(d.support);
    out[descriptor::kValueAt] = static_cast<uint8_t>(d.value);
    out[descriptor::kScaleModeAt] = static_cast<uint8_t>(d.scale_mode);
    out[descriptor::kBlockAt] = d.block_log2;
    store(out + descriptor::kSpanAt, d.span);
    store(out + descriptor::kScaleAt, d.scale);
    store(out + descriptor::kCountAt, d.count);
  }

  std::span<const TensorSpec> schema_;
  Profile profile_;
  Draft* out_;
  Scratch scratch_;
  ValueScratch value_scratch_;
  std::vector<Span> spans_;
  uint64_t chunks_ = 0;
  size_t entry_ = 0;
};

}  // namespace

uint8_t block_log2_of(ValueMode mode) {
  if (mode == ValueMode::kInt8) return kInt8BlockLog2;
  if (mode == ValueMode::kTernary) return kTernaryBlockLog2;
  return mode == ValueMode::kInt4 ? kInt4BlockLog2 : 0;
}

Status write(std::span<const TensorSpec> schema, std::span<const Source> sources, Profile profile,
             Draft* out) {
  *out = Draft{};
  return Writer(schema, profile, out).run(sources);
}

void finish(uint64_t schema_fingerprint, uint64_t base_fingerprint, uint32_t round, Profile profile,
            Draft* out) {
  uint8_t* h = out->bytes.data();
  std::memset(h, 0, kHeaderBytes);
  std::memcpy(h, kMagic, sizeof kMagic);
  uint32_t chunks = 0;
  for (const Descriptor& d : out->descriptors) chunks += d.chunks;
  store(h + header::kMajorAt, kMajor);
  store(h + header::kTotalBytesAt, static_cast<uint64_t>(out->bytes.size()));
  store(h + header::kSchemaAt, schema_fingerprint);
  store(h + header::kBaseAt, base_fingerprint);
  store(h + header::kRoundAt, round);
  store(h + header::kTensorsAt, static_cast<uint32_t>(out->descriptors.size()));
  store(h + header::kChunksAt, chunks);
  store(h + header::kProfileAt, static_cast<uint32_t>(profile));
  const size_t tables =
      kHeaderBytes + out->descriptors.size() * kDescriptorBytes + chunks * kChunkBytes;
  store(h + header::kChecksumAt, crc32c(h, tables));
}

}  // namespace sparsefl::codec
