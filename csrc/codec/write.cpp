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
// Coders that are about to take fewer bytes first make room for more.
constexpr size_t kSlackBytes = size_t{1} << 20;
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
  void clear() {
    bytes.clear();
    ends.clear();
    coders.clear();
  }
  // Returns the coder of the i-th.
  uint8_t append_to(size_t i, std::vector<uint8_t>* out) const {
    const size_t begin = i == 0 ? 0 : ends[i - 1];
    out->insert(out->end(), bytes.data() + begin, bytes.data() + ends[i]);
    return coders[i];
  }
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
    const size_t tables = entry_ + chunks_ * kChunkBytes;
    out_->bytes.reserve(tables + about_bytes(sources) + kSlackBytes);
    out_->bytes.resize(tables);
    for (size_t i = 0; i < sources.size(); ++i) {
      const Status status = write_tensor(sources[i], &out_->descriptors[i]);
      if (!status.ok()) return Status{status.reason, static_cast<int64_t>(i)};
      store_descriptor(out_->descriptors[i],
                       out_->bytes.data() + kHeaderBytes + i * kDescriptorBytes);
    }
    return {};
  }

 private:
  // What all chunks take, seldom less. Memory that is not used costs nothing.
  size_t about_bytes(std::span<const Source> sources) const {
    uint64_t bytes = 0;
    for (const Source& s : sources) {
      if (s.support == SupportMode::kSeed) continue;
      const TensorSpec& spec = schema_[s.ordinal];
      bytes += support_bytes(s, spec) +
               value_section_bytes(s.value, spec.dtype, s.count, block_log2_of(s.value));
    }
    return bytes;
  }

  Status write_tensor(const Source& s, Descriptor* d) {
    if (s.support == SupportMode::kSeed) return {};
    if (s.base_bitmap != nullptr) choose_supports(s, d);
    if (s.base_signs != nullptr && !choose_signs(s, d)) return Status{Reason::kValue};
    uint64_t done = 0;
    for (size_t i = 0; i < d->chunks; ++i, entry_ += kChunkBytes) {
      const Span span = span_of(s, *d, i);
      if (span.count > s.count - done) return Status{Reason::kCount};
      std::vector<uint8_t>& bytes = out_->bytes;
      const size_t body = bytes.size();
      uint8_t coders = append_support(s, *d, span, i);
      const size_t values = bytes.size();
      if (!append_chunk_values(s, *d, span, i, done, &coders)) return Status{Reason::kValue};
      uint8_t* entry = bytes.data() + entry_;
      store(entry + chunk::kSupportBytesAt, static_cast<uint32_t>(values - body));
      store(entry + chunk::kValueBytesAt, static_cast<uint32_t>(bytes.size() - values));
      store(entry + chunk::kCountAt, static_cast<uint32_t>(span.count));
      entry[chunk::kCodersAt] = coders;
      store(entry + chunk::kChecksumAt, crc32c(bytes.data() + body, bytes.size() - body));
      done += span.count;
    }
    return done == s.count ? Status{} : Status{Reason::kCount};
  }

  // The positions of the i-th chunk. Counts them: just before they are coded, so that they are read
  // from memory once.
  Span span_of(const Source& s, const Descriptor& d, size_t i) const {
    const TensorSpec& spec = schema_[s.ordinal];
    const uint64_t begin = uint64_t{d.span} * i;
    Span span{std::min<uint64_t>(d.span, spec.numel - begin), 0, 0};
    span.count = s.bitmap == nullptr ? span.positions
                                     : popcount(s.bitmap + begin / 8, (span.positions + 7) / 8);
    if (spec.row != 0 && d.span % spec.row == 0) span.row = spec.row;
    return span;
  }

  // Codes the support and its changes from the base, and keeps what is smaller.
  void choose_supports(const Source& s, Descriptor* d) {
    supports_.clear();
    Sections changes;
    for (size_t i = 0; i < d->chunks; ++i) {
      const Span span = span_of(s, *d, i);
      const uint64_t at = uint64_t{d->span} * i / 8;
      supports_.close(append_sent(s.bitmap + at, span, profile_, &scratch_, &supports_.bytes));
      append_changes(s.bitmap + at, s.base_bitmap + at, span, profile_, &scratch_, &changes.bytes);
      changes.close(0);
    }
    if (changes.bytes.size() >= supports_.bytes.size()) return;
    d->support = SupportMode::kChanges;
    supports_ = std::move(changes);
  }

  // Codes the signs and their differences from the base's, and keeps what is smaller. False where
  // one is no sign.
  bool choose_signs(const Source& s, Descriptor* d) {
    signs_.clear();
    Sections flips;
    bool valid = true;
    uint64_t done = 0;
    for (size_t i = 0; i < d->chunks; ++i) {
      const Span span = span_of(s, *d, i);
      if (span.count > s.count - done) break;
      const auto* signs = reinterpret_cast<const int8_t*>(s.values) + done;
      signs_.close(
          append_signs(signs, nullptr, span.count, profile_, &scratch_, &signs_.bytes, &valid));
      flips.close(append_signs(signs, s.base_signs + done, span.count, profile_, &scratch_,
                               &flips.bytes, &valid));
      done += span.count;
    }
    if (flips.bytes.size() >= signs_.bytes.size()) return valid;
    d->value = ValueMode::kFlips;
    signs_ = std::move(flips);
    return valid;
  }

  // Appends the support section of a chunk and returns its coder.
  uint8_t append_support(const Source& s, const Descriptor& d, const Span& span, size_t i) {
    if (s.support != SupportMode::kSent) return 0;
    if (s.base_bitmap != nullptr) return supports_.append_to(i, &out_->bytes);
    const uint8_t* bits = s.bitmap + uint64_t{d.span} * i / 8;
    return append_sent(bits, span, profile_, &scratch_, &out_->bytes);
  }

  // Appends the value section of a chunk and adds its coder. False where a value has no place in
  // its format.
  bool append_chunk_values(const Source& s, const Descriptor& d, const Span& span, size_t i,
                           uint64_t done, uint8_t* coders) {
    if (s.value == ValueMode::kNone) return true;
    bool valid = true;
    uint8_t coder = 0;
    if (s.base_signs != nullptr) {
      coder = signs_.append_to(i, &out_->bytes);
    } else if (s.value == ValueMode::kSign) {
      const auto* signs = reinterpret_cast<const int8_t*>(s.values) + done;
      coder = append_signs(signs, nullptr, span.count, profile_, &scratch_, &out_->bytes, &valid);
    } else {
      const Dtype dtype = schema_[s.ordinal].dtype;
      Draws draws = s.draws.value_or(Draws{});
      draws.first += done;
      const uint8_t* values = s.values + done * memory_item_bytes(s.value, dtype);
      const ValueSource source{s.value, dtype,      d.block_log2,
                               values,  span.count, s.draws ? &draws : nullptr};
      ValueCoder chosen = ValueCoder::kRaw;
      valid = append_values(source, profile_, &value_scratch_, &out_->bytes, &chosen);
      coder = static_cast<uint8_t>(chosen);
      if (chosen == ValueCoder::kClasses) out_->minor = kClassesMinor;
    }
    *coders = static_cast<uint8_t>(*coders | coder << 4);
    return valid;
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
  // Of one tensor, where they were chosen among two.
  Sections supports_;
  Sections signs_;
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
  store(h + header::kMinorAt, out->minor);
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
