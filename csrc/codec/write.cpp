// Updates to messages: descriptors, directory and bodies, each chunk's codes by their exact cost.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "codec/bits.h"
#include "codec/crc32c.h"
#include "codec/message.h"
#include "codec/parallel.h"
#include "codec/sections.h"
#include "codec/values.h"

namespace sparsefl::codec {
namespace {

// A chunk should hold this much, so that its directory entry and the states of its coders stay
// below .2 % of it.
constexpr double kChunkPayloadBytes = 256 * 1024;
// A chunk of values alone, whose tables are many, may be so many times as large.
constexpr uint32_t kDensePayloads = 4;
// Coders that are about to take fewer bytes first make room for more.
constexpr size_t kSlackBytes = size_t{1} << 20;
// A scale of 2 bytes for int8 is then .2 %; for int4, whose error needs small blocks, 6 %.
constexpr uint8_t kInt8BlockLog2 = 10;
constexpr uint8_t kTernaryBlockLog2 = 10;
constexpr uint8_t kInt4BlockLog2 = 6;
// Tiles are at most this many rows high, so spans of as many rows hold whole ones.
constexpr uint64_t kTileRows = 128;

// A section of a chunk, coded.
struct Section {
  std::vector<uint8_t> bytes;
  uint8_t coder = 0;

  uint8_t append_to(std::vector<uint8_t>* out) const {
    out->insert(out->end(), bytes.begin(), bytes.end());
    return coder;
  }
};

// A chunk to be written.
struct Part {
  size_t source = 0;
  // In its tensor.
  uint64_t index = 0;
  Span span{};
  // Values of the tensor before its own.
  uint64_t done = 0;
  // Where there is a base: coded without it and against it, of which the tensor takes one.
  Section supports[2], signs[2];
};

// What one thread codes with, and into.
struct Coder {
  Scratch scratch;
  ValueScratch values;
  std::vector<uint8_t> bytes;
  uint16_t minor = 0;
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
  const uint32_t aligned = align_to_rows(span, spec.row);
  // Rows are nothing to values that are all sent, and tiles of long ones are one thread's work.
  const bool large = payload * aligned > kDensePayloads * wanted;
  return s.support == SupportMode::kDense && large ? std::min(kDensePayloads * span, kMaxSpan)
                                                   : aligned;
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

// Lists all chunks, then codes each on whatever thread is free.
class Writer {
 public:
  Writer(std::span<const TensorSpec> schema, std::span<const Source> sources, Profile profile,
         size_t threads, Draft* out)
      : schema_(schema), sources_(sources), profile_(profile), coders_(threads), out_(out) {}

  Status run() {
    for (size_t i = 0; i < sources_.size(); ++i) {
      if (!list_parts(i)) return Status{Reason::kCount, static_cast<int64_t>(i)};
    }
    out_->tables.resize(kHeaderBytes + sources_.size() * kDescriptorBytes +
                        parts_.size() * kChunkBytes);
    const uint64_t share = about_bytes() / coders_.size();
    for (Coder& coder : coders_) {
      coder.bytes.reserve((coders_.size() > 1 ? 2 * share : share) + kSlackBytes);
    }
    if (const Status status = choose(); !status.ok()) return status;
    for (size_t i = 0; i < sources_.size(); ++i) {
      store_descriptor(out_->descriptors[i],
                       out_->tables.data() + kHeaderBytes + i * kDescriptorBytes);
    }
    out_->pieces.resize(parts_.size());
    const Status status = take_turns([this](size_t i, size_t thread) { return code(i, thread); });
    for (Coder& coder : coders_) {
      out_->minor = std::max(out_->minor, coder.minor);
      out_->bodies.push_back(std::move(coder.bytes));
    }
    return status;
  }

 private:
  // Describes the i-th source and lists its chunks. False where its count is not its bitmap's.
  bool list_parts(size_t i) {
    const Source& s = sources_[i];
    Descriptor d = describe(s, schema_[s.ordinal]);
    d.first_chunk = static_cast<uint32_t>(parts_.size());
    out_->descriptors.push_back(d);
    if (s.support == SupportMode::kSeed) return true;
    uint64_t done = 0;
    for (size_t chunk = 0; chunk < d.chunks; ++chunk) {
      Part part;
      part.source = i, part.index = chunk, part.done = done;
      part.span = span_of(s, d, chunk);
      done += part.span.count;
      parts_.push_back(std::move(part));
    }
    return done == s.count;
  }

  // The positions of the i-th chunk.
  Span span_of(const Source& s, const Descriptor& d, size_t i) const {
    const TensorSpec& spec = schema_[s.ordinal];
    const uint64_t begin = uint64_t{d.span} * i;
    Span span{std::min<uint64_t>(d.span, spec.numel - begin), 0, 0};
    span.count = s.bitmap == nullptr ? span.positions
                                     : popcount(s.bitmap + begin / 8, (span.positions + 7) / 8);
    if (spec.row != 0 && d.span % spec.row == 0) span.row = spec.row;
    return span;
  }

  // What all chunks take, seldom less. Memory that is not used costs nothing.
  uint64_t about_bytes() const {
    uint64_t bytes = 0;
    for (const Source& s : sources_) {
      if (s.support == SupportMode::kSeed) continue;
      const TensorSpec& spec = schema_[s.ordinal];
      bytes += support_bytes(s, spec) +
               value_section_bytes(s.value, spec.dtype, s.count, block_log2_of(s.value));
    }
    return bytes;
  }

  // Calls take(part, thread) -> Reason for all parts.
  template <class Take>
  Status take_turns(Take take) {
    const Failure failure = for_each_turn(parts_.size(), coders_.size(), take);
    if (failure.reason == Reason::kNone) return {};
    return Status{failure.reason, static_cast<int64_t>(parts_[failure.turn].source)};
  }

  // Codes what refers to a base both ways, and keeps of each tensor what is smaller.
  Status choose() {
    const auto has_base = [](const Source& s) {
      return s.base_bitmap != nullptr || s.base_signs != nullptr;
    };
    if (std::none_of(sources_.begin(), sources_.end(), has_base)) return {};
    const Status status =
        take_turns([this](size_t i, size_t thread) { return code_both(&parts_[i], thread); });
    if (!status.ok()) return status;
    for (size_t i = 0; i < sources_.size(); ++i) {
      Descriptor* d = &out_->descriptors[i];
      const std::span<Part> parts = std::span(parts_).subspan(d->first_chunk, d->chunks);
      if (sources_[i].base_bitmap != nullptr && is_second_smaller(parts, &Part::supports)) {
        d->support = SupportMode::kChanges;
      }
      if (sources_[i].base_signs != nullptr && is_second_smaller(parts, &Part::signs)) {
        d->value = ValueMode::kFlips;
      }
    }
    return {};
  }

  static bool is_second_smaller(std::span<const Part> parts, Section (Part::*sections)[2]) {
    size_t bytes[2] = {0, 0};
    for (const Part& part : parts) {
      for (int i = 0; i < 2; ++i) bytes[i] += (part.*sections)[i].bytes.size();
    }
    return bytes[1] < bytes[0];
  }

  // The support and its changes from the base, and the signs and their differences from the base's.
  Reason code_both(Part* part, size_t thread) {
    const Source& s = sources_[part->source];
    Scratch* scratch = &coders_[thread].scratch;
    if (s.base_bitmap != nullptr) {
      const uint64_t at = first_byte(*part);
      part->supports[0].coder =
          append_sent(s.bitmap + at, part->span, profile_, scratch, &part->supports[0].bytes);
      append_changes(s.bitmap + at, s.base_bitmap + at, part->span, profile_, scratch,
                     &part->supports[1].bytes);
    }
    bool valid = true;
    for (int i = 0; i < 2 && s.base_signs != nullptr; ++i) {
      const int8_t* base = i == 0 ? nullptr : s.base_signs + part->done;
      part->signs[i].coder = append_signs(signs_of(s, *part), base, part->span.count, profile_,
                                          scratch, &part->signs[i].bytes, &valid);
    }
    return valid ? Reason::kNone : Reason::kValue;
  }

  // Of a part, in its tensor's bitmaps.
  uint64_t first_byte(const Part& part) const {
    return uint64_t{out_->descriptors[part.source].span} * part.index / 8;
  }
  static const int8_t* signs_of(const Source& s, const Part& part) {
    return reinterpret_cast<const int8_t*>(s.values) + part.done;
  }

  // Appends a chunk to what the thread has coded, and enters it into the directory.
  Reason code(size_t i, size_t thread) {
    const Part& part = parts_[i];
    Coder* coder = &coders_[thread];
    std::vector<uint8_t>& bytes = coder->bytes;
    const size_t body = bytes.size();
    uint8_t coders = append_support(part, coder);
    const size_t values = bytes.size();
    if (!append_chunk_values(part, coder, &coders)) return Reason::kValue;
    uint8_t* entry =
        out_->tables.data() + kHeaderBytes + sources_.size() * kDescriptorBytes + i * kChunkBytes;
    store(entry + chunk::kSupportBytesAt, static_cast<uint32_t>(values - body));
    store(entry + chunk::kValueBytesAt, static_cast<uint32_t>(bytes.size() - values));
    store(entry + chunk::kCountAt, static_cast<uint32_t>(part.span.count));
    entry[chunk::kCodersAt] = coders;
    store(entry + chunk::kChecksumAt, crc32c(bytes.data() + body, bytes.size() - body));
    out_->pieces[i] = {thread, body, bytes.size() - body};
    return Reason::kNone;
  }

  // Appends the support section of a chunk and returns its coder.
  uint8_t append_support(const Part& part, Coder* coder) const {
    const Source& s = sources_[part.source];
    if (s.support != SupportMode::kSent) return 0;
    if (s.base_bitmap != nullptr) {
      const bool changes = out_->descriptors[part.source].support == SupportMode::kChanges;
      return part.supports[changes ? 1 : 0].append_to(&coder->bytes);
    }
    return append_sent(s.bitmap + first_byte(part), part.span, profile_, &coder->scratch,
                       &coder->bytes);
  }

  // Appends the value section of a chunk and adds its coder. False where a value has no place in
  // its format.
  bool append_chunk_values(const Part& part, Coder* to, uint8_t* coders) const {
    const Source& s = sources_[part.source];
    if (s.value == ValueMode::kNone) return true;
    bool valid = true;
    uint8_t coder = 0;
    if (s.base_signs != nullptr) {
      const bool flips = out_->descriptors[part.source].value == ValueMode::kFlips;
      coder = part.signs[flips ? 1 : 0].append_to(&to->bytes);
    } else if (s.value == ValueMode::kSign) {
      coder = append_signs(signs_of(s, part), nullptr, part.span.count, profile_, &to->scratch,
                           &to->bytes, &valid);
    } else {
      const Dtype dtype = schema_[s.ordinal].dtype;
      Draws draws = s.draws.value_or(Draws{});
      draws.first += part.done;
      const ValueSource source{s.value,
                               dtype,
                               block_log2_of(s.value),
                               s.values + part.done * memory_item_bytes(s.value, dtype),
                               part.span.count,
                               s.draws ? &draws : nullptr};
      ValueCoder chosen = ValueCoder::kRaw;
      valid = append_values(source, profile_, &to->values, &to->bytes, &chosen);
      coder = static_cast<uint8_t>(chosen);
      if (chosen == ValueCoder::kClasses) to->minor = kClassesMinor;
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
  std::span<const Source> sources_;
  Profile profile_;
  std::vector<Coder> coders_;
  Draft* out_;
  std::vector<Part> parts_;
};

}  // namespace

uint8_t block_log2_of(ValueMode mode) {
  if (mode == ValueMode::kInt8) return kInt8BlockLog2;
  if (mode == ValueMode::kTernary) return kTernaryBlockLog2;
  return mode == ValueMode::kInt4 ? kInt4BlockLog2 : 0;
}

size_t Draft::size() const {
  size_t bytes = tables.size();
  for (const Piece& piece : pieces) bytes += piece.size;
  return bytes;
}

Status write(std::span<const TensorSpec> schema, std::span<const Source> sources, Profile profile,
             Draft* out, size_t threads) {
  *out = Draft{};
  return Writer(schema, sources, profile, threads, out).run();
}

void finish(uint64_t schema_fingerprint, uint64_t base_fingerprint, uint32_t round, Profile profile,
            const Draft& draft, std::span<uint8_t> out) {
  uint8_t* h = out.data();
  std::memcpy(h, draft.tables.data(), draft.tables.size());
  std::memset(h, 0, kHeaderBytes);
  std::memcpy(h, kMagic, sizeof kMagic);
  store(h + header::kMajorAt, kMajor);
  store(h + header::kMinorAt, draft.minor);
  store(h + header::kTotalBytesAt, static_cast<uint64_t>(out.size()));
  store(h + header::kSchemaAt, schema_fingerprint);
  store(h + header::kBaseAt, base_fingerprint);
  store(h + header::kRoundAt, round);
  store(h + header::kTensorsAt, static_cast<uint32_t>(draft.descriptors.size()));
  store(h + header::kChunksAt, static_cast<uint32_t>(draft.pieces.size()));
  store(h + header::kProfileAt, static_cast<uint32_t>(profile));
  store(h + header::kChecksumAt, crc32c(h, draft.tables.size()));
  uint8_t* body = h + draft.tables.size();
  for (const Piece& piece : draft.pieces) {
    if (piece.size == 0) continue;
    std::memcpy(body, draft.bodies[piece.thread].data() + piece.begin, piece.size);
    body += piece.size;
  }
}

}  // namespace sparsefl::codec
