#include "codec/values.h"

#include <algorithm>
#include <cstring>

#include "codec/byte_code.h"
#include "codec/class_code.h"

namespace sparsefl::codec {
namespace {

constexpr uint64_t kNoExponent = 0;
// What is looked at of a plane to tell whether it may have a code: 16 stretches of 256 bytes.
constexpr size_t kStretches = 16, kStretch = 256;
// Exponents and mantissas of the scales, integers.
constexpr size_t kBlockPlanes = 3;
// Values that are counted at a time: their planes stay in a cache. Whole blocks, and whole bytes of
// ternary integers, of which one holds five.
constexpr size_t kCountedAtATime = size_t{5} << 12;

// Elements of a floating format whose bytes are split into planes.
struct Element {
  size_t bytes;
  // Bits that are all set in what is not finite; kNoExponent for integers.
  uint64_t exponent;
};

Element element_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::kFloat64:
      return {8, 0x7FF0000000000000};
    case Dtype::kFloat32:
      return {4, 0x7F800000};
    case Dtype::kFloat16:
      return {2, 0x7C00};
    case Dtype::kBfloat16:
      return {2, 0x7F80};
    default:
      return {item_bytes(dtype), kNoExponent};
  }
}

// Of value modes without scales.
Dtype wire_dtype(ValueMode mode, Dtype dtype) {
  if (mode == ValueMode::kFp32) return Dtype::kFloat32;
  if (mode == ValueMode::kModular) return Dtype::kInt32;
  return mode == ValueMode::kBf16 ? Dtype::kBfloat16 : dtype;
}

uint8_t* grow(std::vector<uint8_t>* out, size_t bytes) {
  out->resize(out->size() + bytes);
  return out->data() + out->size() - bytes;
}

uint8_t* room(ValueScratch* scratch, size_t bytes) {
  if (scratch->size() < bytes) scratch->resize(bytes);
  return scratch->data();
}

// Whether no code of some stretches of a plane is shorter than they are: the lower planes of floats
// then need not be counted, which takes longer than to copy them.
bool looks_even(const uint8_t* plane, size_t n, Profile profile) {
  if (n < 8 * kStretches * kStretch) return false;
  uint32_t counts[256] = {};
  for (size_t i = 0; i < kStretches; ++i) count_bytes(plane + n / kStretches * i, kStretch, counts);
  return choose_byte_model(counts, kStretches * kStretch, profile).coder == ByteCoder::kRaw;
}

// Planes of bytes of one section, one after the other.
struct Planes {
  const size_t* lengths;
  size_t count;
  // Which of them is in a classed code where the value coder says so.
  size_t classed;
  // Whether it is in one even where that takes more bytes; of no matter to a reader.
  bool always = false;
};

// Appends the code of each plane. False, and nothing appended, where they are no shorter than the
// raw section.
bool append_planes(const uint8_t* symbols, const Planes& planes, size_t raw_bytes, Profile profile,
                   std::vector<uint8_t>* out, ValueCoder* coder) {
  const size_t begin = out->size();
  *coder = ValueCoder::kPlanes;
  for (size_t i = 0; i < planes.count; symbols += planes.lengths[i++]) {
    const size_t n = planes.lengths[i];
    if (looks_even(symbols, n, profile)) {
      append_byte_code(symbols, n, ByteModel{}, out);
    } else if (n != 0) {
      uint32_t counts[256] = {};
      count_bytes(symbols, n, counts);
      const ByteModel model = choose_byte_model(counts, n, profile);
      if (i == planes.classed &&
          append_class_code(symbols, n, coded_bytes(model), planes.always, out))
        *coder = ValueCoder::kClasses;
      else
        append_byte_code(symbols, n, model, out);
    }
    if (out->size() - begin < raw_bytes) continue;
    out->resize(begin);
    return false;
  }
  return true;
}

void count_planes(const uint8_t* planes, const size_t* lengths, size_t count,
                  uint64_t (*counts)[256]) {
  for (size_t i = 0; i < count; ++i) {
    uint32_t found[256] = {};
    count_bytes(planes, lengths[i], found);
    for (int s = 0; s < 256; ++s) counts[i][s] += found[s];
    planes += lengths[i];
  }
}

Reason read_planes(const ValueSection& s, const Planes& planes, uint8_t* symbols) {
  const bool classes = s.coder == static_cast<uint8_t>(ValueCoder::kClasses);
  size_t at = 0;
  for (size_t i = 0; i < planes.count; symbols += planes.lengths[i++]) {
    size_t used = 0;
    const uint8_t* data = s.data + at;
    const size_t bytes = s.bytes - at, n = planes.lengths[i];
    const Reason reason = classes && i == planes.classed
                              ? read_class_code(data, bytes, n, symbols, &used)
                              : read_byte_code(data, bytes, n, Profile::kRans, symbols, &used);
    if (reason != Reason::kNone) return reason;
    at += used;
  }
  return at == s.bytes ? Reason::kNone : Reason::kSectionLength;
}

// The sections of floats, and of what travels in its own dtype.
class Elements {
 public:
  Elements(ValueMode mode, Dtype dtype, size_t n)
      : mode_(mode),
        dtype_(wire_dtype(mode, dtype)),
        element_(element_of(dtype_)),
        n_(n),
        lengths_{} {
    std::fill_n(lengths_, element_.bytes, n);
  }

  bool append(const ValueSource& s, Profile profile, ValueScratch* scratch,
              std::vector<uint8_t>* out, ValueCoder* coder) const {
    uint8_t* planes = room(scratch, 2 * bytes());
    const uint8_t* elements = elements_of(s, planes + bytes());
    if (elements == nullptr) return false;
    if (profile != Profile::kPlain) {
      if (!split(elements, planes)) return false;
      if (append_planes(planes, {lengths_, element_.bytes, 0, s.classes}, bytes(), profile, out,
                        coder))
        return true;
    }
    *coder = ValueCoder::kRaw;
    return copy(elements, grow(out, bytes()));
  }

  bool count(const ValueSource& s, ValueScratch* scratch, uint64_t (*counts)[256]) const {
    uint8_t* planes = room(scratch, 2 * bytes());
    const uint8_t* elements = elements_of(s, planes + bytes());
    if (elements == nullptr || !split(elements, planes)) return false;
    count_planes(planes, lengths_, element_.bytes, counts);
    return true;
  }

  Reason read(const ValueSection& s, ValueScratch* scratch, uint8_t* values) const {
    const uint8_t* elements = s.data;
    const bool is_bf16 = mode_ == ValueMode::kBf16;
    if (s.coder != static_cast<uint8_t>(ValueCoder::kRaw)) {
      uint8_t* planes = room(scratch, 2 * bytes());
      const Reason reason = read_planes(s, {lengths_, element_.bytes, 0}, planes);
      if (reason != Reason::kNone) return reason;
      uint8_t* to = is_bf16 ? planes + bytes() : values;
      if (!value_kernels().join(planes, n_, element_.bytes, element_.exponent, to))
        return Reason::kValue;
      if (is_wrong_bool(planes)) return Reason::kValue;
      if (!is_bf16) return Reason::kNone;
      elements = to;
    }
    const bool fits =
        is_bf16 ? value_kernels().from_bf16(elements, n_, values) : copy(elements, values);
    return fits ? Reason::kNone : Reason::kValue;
  }

  size_t bytes() const { return n_ * element_.bytes; }
  size_t planes() const { return element_.bytes; }

 private:
  // The values as they travel, rounded into `memory` where that is not how they are held; null
  // where one has no place in bfloat16.
  const uint8_t* elements_of(const ValueSource& s, uint8_t* memory) const {
    if (mode_ != ValueMode::kBf16) return s.values;
    return value_kernels().to_bf16(s.values, n_, s.draws, memory) ? memory : nullptr;
  }

  bool split(const uint8_t* elements, uint8_t* planes) const {
    return value_kernels().split(elements, n_, element_.bytes, element_.exponent, planes) &&
           !is_wrong_bool(planes);
  }

  // Copies elements; false where one has no place in the format.
  bool copy(const uint8_t* from, uint8_t* to) const {
    if (element_.exponent != kNoExponent)
      return value_kernels().copy_finite(from, n_, element_.bytes, element_.exponent, to);
    std::memcpy(to, from, bytes());
    return !is_wrong_bool(from);
  }

  bool is_wrong_bool(const uint8_t* values) const {
    return dtype_ == Dtype::kBool &&
           std::any_of(values, values + n_, [](uint8_t b) { return b > 1; });
  }

  ValueMode mode_;
  Dtype dtype_;
  Element element_;
  size_t n_;
  size_t lengths_[8];
};

// The sections of integers with a scale a block.
class Blocks {
 public:
  Blocks(ValueMode mode, uint8_t block_log2, size_t n)
      : mode_(mode),
        block_log2_(block_log2),
        n_(n),
        blocks_(blocks_of(n, block_log2)),
        lengths_{blocks_, blocks_,
                 value_section_bytes(mode, Dtype::kFloat32, n, block_log2) - 2 * blocks_} {}

  bool append(const ValueSource& s, Profile profile, ValueScratch* scratch,
              std::vector<uint8_t>* out, ValueCoder* coder) const {
    uint8_t* planes = room(scratch, bytes());
    if (!quantise(s, planes)) return false;
    if (profile != Profile::kPlain &&
        append_planes(planes, {lengths_, kBlockPlanes, 2, s.classes}, bytes(), profile, out, coder))
      return true;
    *coder = ValueCoder::kRaw;
    uint8_t* to = grow(out, bytes());
    for (size_t i = 0; i < blocks_; ++i, to += 2) {
      to[0] = planes[blocks_ + i];
      to[1] = planes[i];
    }
    std::memcpy(to, planes + 2 * blocks_, lengths_[2]);
    return true;
  }

  bool count(const ValueSource& s, ValueScratch* scratch, uint64_t (*counts)[256]) const {
    uint8_t* planes = room(scratch, bytes());
    if (!quantise(s, planes)) return false;
    count_planes(planes, lengths_, kBlockPlanes, counts);
    return true;
  }

  Reason read(const ValueSection& s, ValueScratch* scratch, uint8_t* values) const {
    BlockView view = {s.data + 1, s.data, 2, s.data + 2 * blocks_};
    if (s.coder != static_cast<uint8_t>(ValueCoder::kRaw)) {
      uint8_t* planes = room(scratch, bytes());
      const Reason reason = read_planes(s, {lengths_, kBlockPlanes, 2}, planes);
      if (reason != Reason::kNone) return reason;
      view = {planes, planes + blocks_, 1, planes + 2 * blocks_};
    }
    return value_kernels().multiply(mode_, view, n_, block_log2_, values);
  }

  size_t bytes() const { return 2 * blocks_ + lengths_[2]; }

 private:
  bool quantise(const ValueSource& s, uint8_t* planes) const {
    const BlockSource source = {s.values, n_, block_log2_, s.draws};
    const BlockTarget target = {planes, planes + blocks_, 1, planes + 2 * blocks_};
    return value_kernels().quantise(mode_, source, target);
  }

  ValueMode mode_;
  uint8_t block_log2_;
  size_t n_;
  size_t blocks_;
  // Of the exponents and mantissas of the scales, and of the integers.
  size_t lengths_[kBlockPlanes];
};

template <class Section>
Reason read_section(const Section& section, const ValueSection& s, ValueScratch* scratch,
                    uint8_t* values) {
  const bool is_raw = s.coder == static_cast<uint8_t>(ValueCoder::kRaw);
  if (!has_value_coder(s.mode, s.coder, Profile::kRans)) return Reason::kCoder;
  if (is_raw ? s.bytes != section.bytes() : s.bytes >= section.bytes())
    return Reason::kSectionLength;
  return s.n == 0 ? Reason::kNone : section.read(s, scratch, values);
}

}  // namespace

bool has_value_section(ValueMode mode) { return mode != ValueMode::kNone && !is_sign(mode); }

bool has_value_coder(ValueMode mode, uint8_t coder, Profile profile) {
  if (coder == static_cast<uint8_t>(ValueCoder::kRaw)) return true;
  return profile == Profile::kRans && has_value_section(mode) && mode != ValueMode::kModular &&
         coder <= static_cast<uint8_t>(ValueCoder::kClasses);
}

bool append_values(const ValueSource& source, Profile profile, ValueScratch* scratch,
                   std::vector<uint8_t>* out, ValueCoder* coder) {
  *coder = ValueCoder::kRaw;
  if (source.n == 0) return true;
  // Words are sums of others, or masked: of a fixed length and even probabilities.
  if (source.mode == ValueMode::kModular) profile = Profile::kPlain;
  const size_t begin = out->size();
  const bool fits = is_block_scaled(source.mode)
                        ? Blocks(source.mode, source.block_log2, source.n)
                              .append(source, profile, scratch, out, coder)
                        : Elements(source.mode, source.dtype, source.n)
                              .append(source, profile, scratch, out, coder);
  if (!fits) out->resize(begin);
  return fits;
}

bool count_values(const ValueSource& source, ValueScratch* scratch, std::vector<uint64_t>* counts) {
  const bool has_blocks = is_block_scaled(source.mode);
  const size_t planes =
      has_blocks ? kBlockPlanes : Elements(source.mode, source.dtype, source.n).planes();
  counts->assign(256 * planes, 0);
  auto* const to = reinterpret_cast<uint64_t (*)[256]>(counts->data());
  for (size_t begin = 0; begin < source.n; begin += kCountedAtATime) {
    ValueSource part = source;
    part.values += begin * memory_item_bytes(source.mode, source.dtype);
    part.n = std::min(kCountedAtATime, source.n - begin);
    const bool fits = has_blocks
                          ? Blocks(part.mode, part.block_log2, part.n).count(part, scratch, to)
                          : Elements(part.mode, part.dtype, part.n).count(part, scratch, to);
    if (!fits) return false;
  }
  return true;
}

Reason read_values(const ValueSection& section, ValueScratch* scratch, uint8_t* values) {
  if (is_block_scaled(section.mode))
    return read_section(Blocks(section.mode, section.block_log2, section.n), section, scratch,
                        values);
  return read_section(Elements(section.mode, section.dtype, section.n), section, scratch, values);
}

}  // namespace sparsefl::codec
