#include "oracle.h"

#include "allocation.h"
#include "codec/bits.h"
#include "codec/message.h"
#include "decoded.h"
#include "steps.h"
#include "sums.h"

namespace sparsefl::fuzz {
namespace {

using codec::Descriptor;
using codec::Dtype;
using codec::Reason;
using codec::Source;
using codec::SupportMode;
using codec::ValueMode;

// What a decoder holds: chunks and descriptors are larger in memory than in the message; bitmaps,
// gaps and planes of one span.
constexpr uint64_t kFixedBytes = 64 * 1024, kBytesPerPosition = 24, kBytesPerByte = 6;
// Steps: a code of a few bytes has a table of 4096 slots.
constexpr uint64_t kFixedSteps = 100'000, kStepsPerPosition = 100, kStepsPerByte = 1000;

// Measures one step of a decoder against the linear bound.
class Bounds {
 public:
  Bounds(const Case& c) : positions_(positions_of(c)), bytes_(c.message.size()) {
    watch_allocation();
    begin_ = steps_taken();
  }
  void check() const {
    require(steps_taken() - begin_ <=
                kFixedSteps + kStepsPerPosition * positions_ + kStepsPerByte * bytes_,
            "decoding takes too many steps");
    require(
        peak_allocation() <= kFixedBytes + kBytesPerPosition * positions_ + kBytesPerByte * bytes_,
        "decoding takes too much memory");
  }

 private:
  uint64_t positions_, bytes_;
  size_t begin_;
};

Decoded decode(const Case& c, uint8_t fill) {
  Decoded out;
  const Guarded data(c.message);
  const std::span<const uint8_t> bytes(data.data(), data.size());
  const std::vector<codec::TensorSpec> schema = schema_of(c);
  const Bounds tables(c);
  const codec::Status parsed = codec::parse(bytes, kSchemaFingerprint, schema, &out.message);
  tables.check();
  out.reason = parsed.reason;
  if (!parsed.ok()) return out;
  out.has_tables = true;
  std::vector<codec::Target> targets;
  for (const Descriptor& d : out.message.descriptors) {
    const Tensor& tensor = c.tensors[d.ordinal];
    const bool has_values = d.value != ValueMode::kNone;
    const bool sends = codec::sends_support(d.support);
    out.bitmaps.emplace_back(sends ? (tensor.spec.numel + 7) / 8 : 0, fill);
    out.values.emplace_back(
        has_values ? d.count * codec::memory_item_bytes(d.value, tensor.spec.dtype) : 0, fill);
    codec::Target target;
    if (tensor.has_base) target.base = address_of(tensor.base);
    if (tensor.has_signs) target.base_signs = address_of(tensor.signs);
    target.base_count = tensor.signs.size();
    if (sends) target.bitmap = out.bitmaps.back().data();
    if (has_values) target.values = out.values.back().data();
    targets.push_back(target);
  }
  const Bounds bodies(c);
  out.reason = codec::read(bytes, schema, out.message, targets).reason;
  bodies.check();
  return out;
}

template <class Word>
bool all_finite(const Guarded& values, Word exponent) {
  for (size_t i = 0; i < values.size(); i += sizeof(Word))
    if ((codec::load<Word>(values.data() + i) & exponent) == exponent) return false;
  return true;
}

bool are_allowed(const Guarded& values, ValueMode mode, Dtype dtype) {
  if (codec::is_sign(mode)) {
    for (size_t i = 0; i < values.size(); ++i)
      if (values.data()[i] != 1 && values.data()[i] != 0xFF) return false;
    return true;
  }
  if (mode == ValueMode::kModular) return true;
  if (mode != ValueMode::kRaw) return all_finite<uint32_t>(values, 0x7F800000);
  if (dtype == Dtype::kFloat16) return all_finite<uint16_t>(values, 0x7C00);
  if (dtype == Dtype::kFloat64) return all_finite<uint64_t>(values, 0x7FF0000000000000);
  for (size_t i = 0; dtype == Dtype::kBool && i < values.size(); ++i)
    if (values.data()[i] > 1) return false;
  return true;
}

void check_content(const Case& c, const Decoded& decoded) {
  for (size_t i = 0; i < decoded.message.descriptors.size(); ++i) {
    const Descriptor& d = decoded.message.descriptors[i];
    const Tensor& tensor = c.tensors[d.ordinal];
    const Guarded& bitmap = decoded.bitmaps[i];
    if (codec::sends_support(d.support)) {
      require(codec::popcount(bitmap.data(), bitmap.size()) == d.count,
              "a bitmap of another count");
      require(codec::tail_is_zero(bitmap.data(), tensor.spec.numel), "bits past a bitmap's end");
    } else if (d.support == SupportMode::kShared) {
      require(codec::popcount(tensor.base.data(), tensor.base.size()) == d.count,
              "a base of another count");
    }
    require(are_allowed(decoded.values[i], d.value, tensor.spec.dtype), "a value of no format");
  }
}

bool is_equal(const Decoded& a, const Decoded& b) {
  return a.reason == b.reason && a.bitmaps == b.bitmaps && a.values == b.values;
}

enum class Integers { kAsTheyWere, kAtRandom, kAsFloats };

// Encodes what was decoded; integers with scales as they were, rounded to nearest or at random, or,
// so that nothing is lost, as floats.
Case encode(const Case& c, const Decoded& decoded, Integers integers) {
  std::vector<Source> sources;
  for (size_t i = 0; i < decoded.message.descriptors.size(); ++i) {
    const Descriptor& d = decoded.message.descriptors[i];
    const Tensor& tensor = c.tensors[d.ordinal];
    Source s;
    s.ordinal = d.ordinal;
    s.support = d.support == SupportMode::kChanges ? SupportMode::kSent : d.support;
    s.value = d.value == ValueMode::kFlips ? ValueMode::kSign : d.value;
    if (integers == Integers::kAsFloats && codec::is_block_scaled(d.value))
      s.value = ValueMode::kFp32;
    if (integers == Integers::kAtRandom) s.draws = codec::Draws{d.count, i, 0};
    s.scale = d.scale;
    s.count = d.count;
    if (s.support == SupportMode::kSent) s.bitmap = decoded.bitmaps[i].data();
    if (s.support == SupportMode::kShared) s.bitmap = address_of(tensor.base);
    if (s.value != ValueMode::kNone) s.values = decoded.values[i].data();
    if (d.support == SupportMode::kChanges) s.base_bitmap = address_of(tensor.base);
    if (d.value == ValueMode::kFlips) s.base_signs = address_of(tensor.signs);
    sources.push_back(s);
  }
  codec::Draft draft;
  const codec::Profile profile = decoded.message.profile;
  require(codec::write(schema_of(c), sources, profile, &draft).ok(), "what was decoded is refused");
  uint64_t base = 0;
  for (const Descriptor& d : draft.descriptors)
    if (codec::takes_base(d.support)) base = kBaseFingerprint;
  std::vector<uint8_t> bytes(draft.size());
  codec::finish(kSchemaFingerprint, base, decoded.message.round, profile, draft, bytes);
  return {c.tensors, std::move(bytes)};
}

bool is_rounded(const codec::Message& message) {
  for (const Descriptor& d : message.descriptors)
    if (codec::is_block_scaled(d.value) || d.value == ValueMode::kBf16) return true;
  return false;
}

}  // namespace

Verdict check(const Case& c, bool encodes) {
  const Decoded decoded = decode(c, 0x00);
  Verdict verdict{decoded.reason, decoded.message};
  if (decoded.has_tables) check_sums(c, decoded);
  if (decoded.reason != Reason::kNone) return verdict;
  check_content(c, decoded);
  require(is_equal(decoded, decode(c, 0xFF)), "the content depends on the targets' memory");
  if (!encodes) return verdict;
  const Case again = encode(c, decoded, Integers::kAsFloats);
  require(is_equal(decoded, decode(again, 0xFF)), "the content is another after a second coding");
  if (!is_rounded(decoded.message)) return verdict;
  // Scales may be larger than they need be: the first coding makes them the smallest.
  const Case once = encode(c, decoded, Integers::kAsTheyWere);
  const Decoded rounded = decode(once, 0xFF);
  require(rounded.reason == Reason::kNone, "what was encoded is refused");
  require(encode(c, rounded, Integers::kAsTheyWere).message == once.message,
          "rounding again changes a message");
  const Decoded drawn = decode(encode(c, rounded, Integers::kAtRandom), 0xFF);
  require(is_equal(rounded, drawn), "rounding at random changes what needs no rounding");
  return verdict;
}

}  // namespace sparsefl::fuzz
