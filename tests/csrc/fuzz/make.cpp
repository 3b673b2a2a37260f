#include "make.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "codec/bits.h"
#include "codec/byte_code.h"
#include "codec/values.h"

namespace sparsefl::fuzz {
namespace {

using codec::BitCoder;
using codec::Profile;
using codec::SupportMode;
using codec::ValueMode;

constexpr uint8_t kValueModes = 10, kBitCoders = 6;

size_t bytes_of(size_t bits) { return (bits + 7) / 8; }

// A byte code of other lanes than those that suit its length; encoders need many symbols for all.
void append_lanes(uint8_t lanes_log2, const Bytes& symbols, Bytes* out) {
  uint32_t counts[256] = {};
  codec::count_bytes(symbols.data(), symbols.size(), counts);
  codec::ByteModel model = codec::choose_byte_model(counts, symbols.size(), Profile::kRans);
  model.lanes = size_t{1} << lanes_log2;
  codec::append_byte_code(symbols.data(), symbols.size(), model, out);
}

// Appends a gap code of two bits of which no 16 hold the quotient, as encoders never do: they take
// a larger parameter. The bits are the first and the last of n.
void append_wide(BitCoder coder, size_t n, Bytes* out) {
  const size_t gap = n - 2;
  if (coder == BitCoder::kRice) {
    out->insert(out->end(), {1, static_cast<uint8_t>(gap % 2 << 1)});
    const size_t at = out->size(), last = 1 + gap / 2;
    out->resize(at + bytes_of(last + 1));
    (*out)[at] |= 1;
    (*out)[at + last / 8] |= static_cast<uint8_t>(1u << (last % 8));
    return;
  }
  const size_t more = gap / 255;
  out->insert(out->end(), {0, static_cast<uint8_t>(more % 128 | 128)});
  out->push_back(static_cast<uint8_t>(more / 128));
  Bytes symbols(more + 2, 255);
  symbols.front() = 0;
  symbols.back() = static_cast<uint8_t>(gap % 255);
  codec::append_byte_code(symbols.data(), symbols.size(), Profile::kRans, out);
}

// Appends the code by the coder that is wanted, where it has one, and returns the one that it is.
uint8_t append_code(BitCoder wanted, const Bytes& bits, size_t n, size_t row, Bytes* out) {
  codec::Scratch scratch;
  const size_t count = codec::popcount(bits.data(), bits.size());
  if (codec::append_bit_code_as(wanted, bits.data(), n, count, row, Profile::kRans, &scratch, out))
    return static_cast<uint8_t>(wanted);
  return static_cast<uint8_t>(
      codec::append_bit_code(bits.data(), n, count, row, Profile::kRans, &scratch, out));
}

void append_u24(uint64_t number, Bytes* out) {
  for (int i = 0; i < 3; ++i) out->push_back(static_cast<uint8_t>(number >> (8 * i)));
}

// Drops and additions on `kept` positions of the base and `others`. Returns how many are kept then.
uint32_t append_changes(const Plan& plan, size_t kept, size_t others, Random* random, Bytes* out) {
  const Bytes drops = random_bits(plan.support_style, kept, 0, random);
  const Bytes adds = random_bits(plan.support_style, others, 0, random);
  const size_t dropped = codec::popcount(drops.data(), drops.size());
  Bytes drop_code, add_code;
  const uint8_t drop_coder = append_code(plan.support_coder, drops, kept, 0, &drop_code);
  const uint8_t add_coder = append_code(plan.support_coder, adds, others, 0, &add_code);
  append_u24(dropped, out);
  out->push_back(static_cast<uint8_t>(drop_coder | add_coder << 4));
  append_u24(drop_code.size(), out);
  out->insert(out->end(), drop_code.begin(), drop_code.end());
  out->insert(out->end(), add_code.begin(), add_code.end());
  return static_cast<uint32_t>(kept - dropped + codec::popcount(adds.data(), adds.size()));
}

void make_sent(const Plan& plan, size_t n, size_t row, Random* random, ChunkPart* chunk) {
  const bool has_gaps =
      plan.support_coder == BitCoder::kRice || plan.support_coder == BitCoder::kRansGaps;
  // The number of 255s has two digits then.
  if (plan.support_style == BitStyle::kWide && has_gaps && n > 65536 && n < 1 << 22) {
    chunk->count = 2;
    chunk->support_coder = static_cast<uint8_t>(plan.support_coder);
    return append_wide(plan.support_coder, n, &chunk->support);
  }
  const Bytes bits = random_bits(plan.support_style, n, row, random);
  chunk->count = static_cast<uint32_t>(codec::popcount(bits.data(), bits.size()));
  chunk->support_coder = append_code(plan.support_coder, bits, n, row, &chunk->support);
  const bool is_bytes = chunk->support_coder == static_cast<uint8_t>(BitCoder::kRansBytes);
  if (plan.lanes_log2 == kBestLanes || !is_bytes) return;
  chunk->support.clear();
  append_lanes(plan.lanes_log2, bits, &chunk->support);
}

void make_support(const Tensor& tensor, const Plan& plan, uint64_t begin, uint64_t end,
                  Random* random, ChunkPart* chunk) {
  const uint64_t n = end - begin;
  const uint64_t row =
      plan.span % std::max<uint64_t>(tensor.spec.row, 1) == 0 ? tensor.spec.row : 0;
  const bool takes_base = codec::takes_base(plan.support);
  const uint64_t kept =
      takes_base ? codec::popcount(tensor.base.data() + begin / 8, bytes_of(n)) : 0;
  switch (plan.support) {
    case SupportMode::kShared:
      chunk->count = static_cast<uint32_t>(kept);
      break;
    case SupportMode::kSent:
      make_sent(plan, n, row, random, chunk);
      break;
    case SupportMode::kChanges:
      chunk->count = append_changes(plan, kept, n - kept, random, &chunk->support);
      break;
    default:
      chunk->count = static_cast<uint32_t>(n);
  }
}

void make_signs(const Plan& plan, Random* random, ChunkPart* chunk) {
  const Bytes bits = random_bits(plan.sign_style, chunk->count, 0, random);
  if (plan.value_coder != 0) {
    append_u24(codec::popcount(bits.data(), bits.size()), &chunk->values);
    const auto wanted = static_cast<BitCoder>(plan.value_coder - 1);
    chunk->value_coder =
        static_cast<uint8_t>(1 + append_code(wanted, bits, chunk->count, 0, &chunk->values));
    if (chunk->values.size() < bits.size()) return;
  }
  chunk->value_coder = 0;
  chunk->values = bits;
}

void make_values(codec::Dtype dtype, const Plan& plan, Random* random, ChunkPart* chunk) {
  const Profile profile = plan.value_coder == 0 ? Profile::kPlain : Profile::kRans;
  codec::ValueScratch scratch;
  for (const ValueStyle style : {plan.value_style, ValueStyle::kNormal}) {
    const Bytes values = random_values(style, plan.value, dtype, chunk->count, random);
    const codec::ValueSource source{plan.value,   dtype,   plan.block_log2,      values.data(),
                                    chunk->count, nullptr, plan.value_coder == 2};
    codec::ValueCoder coder{};
    if (!codec::append_values(source, profile, &scratch, &chunk->values, &coder)) continue;
    chunk->value_coder = static_cast<uint8_t>(coder);
    return;
  }
}

uint32_t random_span(Random* random) {
  if (random->one_in(2)) return codec::kMinSpan;
  return codec::kMinSpan + codec::kSpanMultiple * static_cast<uint32_t>(random->below(1000));
}

Plan plan_of(SupportMode support, ValueMode value) {
  Plan plan;
  plan.support = support;
  plan.value = value;
  if (support == SupportMode::kSeed) plan.span = 0;
  return plan;
}

}  // namespace

Plan random_plan(const Tensor& tensor, Random* random) {
  Plan plan;
  do {
    plan = plan_of(static_cast<SupportMode>(random->below(5)),
                   static_cast<ValueMode>(random->below(kValueModes)));
  } while (!codec::is_allowed(plan.support, plan.value, tensor.spec.dtype) ||
           (codec::takes_base(plan.support) && !tensor.has_base) ||
           (plan.value == ValueMode::kFlips && !tensor.has_signs));
  plan.support_coder = static_cast<BitCoder>(random->below(kBitCoders));
  plan.support_style = static_cast<BitStyle>(random->below(kBitStyles));
  if (random->one_in(4)) plan.lanes_log2 = static_cast<uint8_t>(random->below(7));
  plan.value_coder = static_cast<uint8_t>(random->below(1 + kBitCoders));
  plan.sign_style = static_cast<BitStyle>(random->below(kBitStyles));
  plan.value_style = static_cast<ValueStyle>(random->below(kValueStyles));
  if (plan.span != 0) plan.span = random_span(random);
  plan.block_log2 = static_cast<uint8_t>(codec::kMinBlockLog2 + random->below(4));
  return plan;
}

TensorPart make_tensor(const Case& c, uint32_t ordinal, const Plan& plan, Random* random) {
  const Tensor& tensor = c.tensors[ordinal];
  TensorPart part;
  part.ordinal = ordinal;
  part.support = plan.support;
  part.value = plan.value;
  part.scale_mode = codec::scale_mode_of(plan.value);
  if (part.scale_mode == codec::ScaleMode::kBlock) part.block_log2 = plan.block_log2;
  if (part.scale_mode == codec::ScaleMode::kTensor) part.scale = std::bit_cast<uint32_t>(0.25f);
  part.span = plan.span;
  if (plan.support == SupportMode::kSeed) {
    part.count = random->next64();
    return part;
  }
  for (uint64_t begin = 0; begin < tensor.spec.numel; begin += plan.span) {
    ChunkPart chunk;
    make_support(tensor, plan, begin, std::min<uint64_t>(begin + plan.span, tensor.spec.numel),
                 random, &chunk);
    if (codec::is_sign(plan.value)) {
      make_signs(plan, random, &chunk);
    } else if (plan.value != ValueMode::kNone) {
      make_values(tensor.spec.dtype, plan, random, &chunk);
    }
    part.chunks.push_back(std::move(chunk));
  }
  settle_count(&part);
  return part;
}

Tensor make_schema(uint64_t numel, codec::Dtype dtype, Random* random) {
  constexpr uint64_t kRows[] = {0, 1, 7, 8, 16, 64, 100, 512};
  Tensor t;
  t.spec.dtype = dtype;
  t.spec.row = kRows[random->below(8)];
  t.spec.numel = t.spec.row == 0 ? numel : (numel + t.spec.row - 1) / t.spec.row * t.spec.row;
  const auto style = static_cast<BitStyle>(random->below(kBitStyles));
  const Bytes base = random_bits(style, t.spec.numel, t.spec.row, random);
  const Bytes signs = random_bits(BitStyle::kEven, t.spec.numel, 0, random);
  set_base(base, codec::is_floating(dtype), signs, &t);
  return t;
}

Case random_case(Random* random) {
  Case c;
  const size_t tensors = 1 + random->below(3);
  for (size_t i = 0; i < tensors; ++i) {
    uint64_t numel = random->below(size_t{1} << random->below(11));
    if (random->one_in(500)) numel = 60000 + random->below(20000);
    const auto dtype = static_cast<codec::Dtype>(random->one_in(2) ? 1 : 1 + random->below(10));
    c.tensors.push_back(make_schema(numel, dtype, random));
    if (random->one_in(8)) c.tensors.back() = {c.tensors.back().spec, false, false, {}, {}};
  }
  Parts parts;
  parts.profile = static_cast<uint32_t>(Profile::kRans);
  for (uint32_t i = 0; i < tensors; ++i)
    parts.tensors.push_back(make_tensor(c, i, random_plan(c.tensors[i], random), random));
  settle_base(&parts);
  c.message = put_together(parts);
  return c;
}

}  // namespace sparsefl::fuzz
