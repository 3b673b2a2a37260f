// The modes, chunks, lengths and offsets of a message to be written, each code by its exact cost.
#include <algorithm>
#include <bit>

#include "codec/bits.h"
#include "codec/message.h"
#include "codec/rice.h"

namespace sparsefl::codec {
namespace {

// A chunk should hold this much, so that its 16 bytes of directory stay below .03 % of it.
constexpr double kChunkPayloadBytes = 64 * 1024;
// A scale of 2 bytes for int8 is then .2 %; for int4, whose error needs small blocks, 6 %.
constexpr uint8_t kInt8BlockLog2 = 10;
constexpr uint8_t kInt4BlockLog2 = 6;

// Memory that the chunks of a message take in turn.
struct Scratch {
  std::vector<uint8_t> bits;
  std::vector<uint32_t> gaps;
};

// About what a support takes: 2 bits and the lower bits of the mean distance for each position.
uint64_t support_bytes(const Source& s, const TensorSpec& spec) {
  if (s.support != SupportMode::kBitmap) return 0;
  const uint64_t coded =
      s.count == 0 ? 0 : s.count * static_cast<uint64_t>(1 + std::bit_width(spec.numel / s.count));
  return (std::min(spec.numel, coded) + 7) / 8;
}

// The smallest span that covers the tensor, or whose chunks hold kChunkPayloadBytes on average.
uint8_t choose_span_log2(const Source& s, const TensorSpec& spec) {
  if (s.support == SupportMode::kSeed) return 0;
  const uint64_t values = value_section_bytes(s.value, spec.dtype, s.count, block_log2_of(s.value));
  const double payload = static_cast<double>(support_bytes(s, spec) + values);
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

// Finds the best code of the `count` set bits of `bits` [0, n). Returns false where it cannot be
// shorter than the bits: every position takes two of it at least.
bool find_code(const uint8_t* bits, uint64_t n, uint64_t count, Scratch* scratch,
               RiceChoice* choice) {
  if (count == 0 || 2 * count >= n) return false;
  scratch->gaps.resize(count);
  *choice = choose_rice(scratch->gaps.data(), gaps_of(bits, n, scratch->gaps.data()));
  return true;
}

void lay_out_support(const Source& s, Scratch* scratch, Chunk* c) {
  const uint64_t span = c->end - c->begin;
  uint64_t bytes = bitmap_section_bytes(span, c->count);
  RiceChoice choice;
  if (find_code(s.bitmap + c->begin / 8, span, c->count, scratch, &choice) &&
      choice.bytes < bytes) {
    bytes = choice.bytes;
    c->parameter = choice.parameter;
  }
  c->support_bytes = static_cast<uint32_t>(bytes);
}

// `done` values of the tensor lie in the chunks before this one.
void lay_out_flips(const Source& s, uint64_t done, Scratch* scratch, Chunk* c) {
  uint64_t bytes = (c->count + 7) / 8;
  scratch->bits.resize(bytes);
  const auto* signs = reinterpret_cast<const int8_t*>(s.values);
  // What is no sign is refused when it is written.
  pack_flips(signs + done, s.base_signs + done, c->count, scratch->bits.data());
  const uint64_t flips = popcount(scratch->bits.data(), bytes);
  RiceChoice choice;
  if (flips == 0) {
    bytes = 0;
  } else if (find_code(scratch->bits.data(), c->count, flips, scratch, &choice) &&
             kFlipCountBytes + choice.bytes < bytes) {
    bytes = kFlipCountBytes + choice.bytes;
    c->parameter = choice.parameter;
  }
  c->value_bytes = static_cast<uint32_t>(bytes);
}

// Turns signs into flips where that makes the tensor's bodies smaller.
void try_flips(const Source& s, Scratch* scratch, Descriptor* d, std::span<Chunk> chunks) {
  std::vector<Chunk> flipped(chunks.begin(), chunks.end());
  uint64_t saved = 0;
  uint64_t done = 0;
  for (Chunk& c : flipped) {
    const uint64_t before = body_bytes(c);
    lay_out_flips(s, done, scratch, &c);
    saved += before - body_bytes(c);
    done += c.count;
  }
  if (saved == 0) return;
  d->value = ValueMode::kFlips;
  std::copy(flipped.begin(), flipped.end(), chunks.begin());
}

Descriptor describe(const Source& s, const TensorSpec& spec, size_t first_chunk) {
  Descriptor d{};
  d.ordinal = s.ordinal;
  d.support = s.support;
  d.value = s.value;
  d.span_log2 = choose_span_log2(s, spec);
  d.scale_mode = scale_mode_of(s.value);
  d.block_log2 = block_log2_of(s.value);
  d.scale = d.scale_mode == ScaleMode::kTensor ? s.scale : 0.0f;
  d.count = s.count;
  d.first_chunk = static_cast<uint32_t>(first_chunk);
  d.chunks = static_cast<uint32_t>(chunks_of(d.support, spec.numel, d.span_log2));
  return d;
}

}  // namespace

uint8_t block_log2_of(ValueMode mode) {
  if (mode == ValueMode::kInt8) return kInt8BlockLog2;
  return mode == ValueMode::kInt4 ? kInt4BlockLog2 : 0;
}

Message lay_out(std::span<const TensorSpec> schema, std::span<const Source> sources) {
  Message message;
  Scratch scratch;
  message.descriptors.reserve(sources.size());
  for (const Source& s : sources) {
    const TensorSpec& spec = schema[s.ordinal];
    Descriptor d = describe(s, spec, message.chunks.size());
    for (uint64_t j = 0; j < d.chunks; ++j) {
      Chunk c{};
      c.begin = j << d.span_log2;
      c.end = std::min<uint64_t>(spec.numel, (j + 1) << d.span_log2);
      c.count = count_chunk(s, c);
      if (s.support == SupportMode::kBitmap) lay_out_support(s, &scratch, &c);
      if (c.parameter != 0) d.support = SupportMode::kCoded;
      c.value_bytes =
          static_cast<uint32_t>(value_section_bytes(d.value, spec.dtype, c.count, d.block_log2));
      message.chunks.push_back(c);
    }
    if (s.base_signs != nullptr)
      try_flips(s, &scratch, &d, std::span(message.chunks).subspan(d.first_chunk));
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

}  // namespace sparsefl::codec
