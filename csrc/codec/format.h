// The wire format of sparsefl/codec/FORMAT.md as types: field offsets, modes, reasons to refuse.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace sparsefl::codec {

static_assert(std::endian::native == std::endian::little, "fields are read in place");

inline constexpr uint8_t kMagic[8] = {0x89, 'S', 'P', 'F', 'L', '\r', '\n', 0x1A};
inline constexpr uint16_t kMajor = 1;
// The first minor version that has value coder 2.
inline constexpr uint16_t kClassesMinor = 1;
// A decoder refuses unknown flags of these bits and ignores the others.
inline constexpr uint32_t kCriticalFlags = 0x0000FFFF;

inline constexpr size_t kHeaderBytes = 64;
inline constexpr size_t kDescriptorBytes = 24;
inline constexpr size_t kChunkBytes = 16;
// Positions of a chunk. Bitmaps of chunks begin on a word of 64 bits.
inline constexpr uint32_t kMinSpan = 1u << 16;
inline constexpr uint32_t kMaxSpan = 1u << 22;
inline constexpr uint32_t kSpanMultiple = 64;
inline constexpr uint8_t kMinBlockLog2 = 5;
inline constexpr uint8_t kMaxBlockLog2 = 16;

// Byte offsets of the header's fields.
namespace header {
inline constexpr size_t kMajorAt = 8, kMinorAt = 10, kFlagsAt = 12, kTotalBytesAt = 16;
inline constexpr size_t kSchemaAt = 24, kBaseAt = 32, kRoundAt = 40, kTensorsAt = 44;
inline constexpr size_t kChunksAt = 48, kProfileAt = 52, kChecksumAt = 56, kReservedAt = 60;
}  // namespace header

// Byte offsets of a descriptor's fields.
namespace descriptor {
inline constexpr size_t kOrdinalAt = 0, kSupportAt = 4, kValueAt = 5, kScaleModeAt = 6;
inline constexpr size_t kBlockAt = 7, kSpanAt = 8, kScaleAt = 12, kCountAt = 16;
}  // namespace descriptor

// Byte offsets of a directory entry's fields; the count takes 3 bytes.
namespace chunk {
inline constexpr size_t kSupportBytesAt = 0, kValueBytesAt = 4, kCountAt = 8, kCodersAt = 11;
inline constexpr size_t kChecksumAt = 12;
}  // namespace chunk

// The coders that a message may use: of kPlain, none of a range asymmetric numeral system (rANS).
enum class Profile : uint32_t { kPlain = 0, kRans = 1 };

enum class SupportMode : uint8_t { kDense = 0, kShared = 1, kSent = 2, kChanges = 3, kSeed = 4 };
enum class ValueMode : uint8_t {
  kNone = 0,
  kSign = 1,
  kFp32 = 2,
  kBf16 = 3,
  kInt8 = 4,
  kInt4 = 5,
  kTernary = 6,
  kRaw = 7,
  kFlips = 8,
  kModular = 9,
};
enum class ScaleMode : uint8_t { kNone = 0, kTensor = 1, kBlock = 2 };

enum class Dtype : uint8_t {
  kFloat32 = 1,
  kFloat64 = 2,
  kFloat16 = 3,
  kBfloat16 = 4,
  kInt64 = 5,
  kInt32 = 6,
  kInt16 = 7,
  kInt8 = 8,
  kUint8 = 9,
  kBool = 10,
};

// Why a message is refused; sparsefl.codec.CodecReason documents each under the same number.
enum class Reason : int {
  kNone = 0,
  kTruncated,
  kMagic,
  kVersion,
  kFlags,
  kProfile,
  kLength,
  kTables,
  kHeaderChecksum,
  kReserved,
  kSchema,
  kOrdinal,
  kSupportMode,
  kValueMode,
  kCoder,
  kCombination,
  kSpan,
  kScale,
  kCount,
  kChunkCount,
  kSectionLength,
  kCoverage,
  kBaseField,
  kBaseMissing,
  kBaseMismatch,
  kChunkChecksum,
  kBitmap,
  kPadding,
  kValue,
  kContent,
  kBlock,
  kCode,
};

// One tensor of the local schema.
struct TensorSpec {
  uint64_t numel;
  Dtype dtype;
  // Elements of a row, numel over the first size; 0 for tensors of less than two dimensions.
  uint64_t row = 0;
};

struct Descriptor {
  uint32_t ordinal;
  SupportMode support;
  ValueMode value;
  uint32_t span;
  ScaleMode scale_mode;
  // Of the blocks with a scale each, for ScaleMode::kBlock.
  uint8_t block_log2;
  float scale;
  // Number of values; of a kSeed descriptor, the seed.
  uint64_t count;
  uint32_t first_chunk;
  uint32_t chunks;
};

// Positions [begin, end) of one tensor. The body at `offset` is the support section and the value
// section.
struct Chunk {
  uint64_t begin;
  uint64_t end;
  uint64_t offset;
  uint32_t support_bytes;
  uint32_t value_bytes;
  uint32_t count;
  uint8_t support_coder;
  uint8_t value_coder;
  uint32_t checksum;
};

struct Message {
  uint64_t schema_fingerprint = 0;
  uint64_t base_fingerprint = 0;
  uint32_t round = 0;
  Profile profile = Profile::kPlain;
  std::vector<Descriptor> descriptors;
  std::vector<Chunk> chunks;
  uint64_t total_bytes = 0;
};

// `where` is the position of the descriptor at fault, or -1 for the message as a whole.
struct Status {
  Reason reason = Reason::kNone;
  int64_t where = -1;
  bool ok() const { return reason == Reason::kNone; }
};

template <class T>
T load(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <class T>
void store(uint8_t* to, T value) {
  std::memcpy(to, &value, sizeof value);
}

constexpr uint64_t body_bytes(const Chunk& c) { return uint64_t{c.support_bytes} + c.value_bytes; }

// Bytes of one element in memory, 0 for an unknown dtype.
constexpr uint64_t item_bytes(Dtype dtype) {
  switch (dtype) {
    case Dtype::kFloat64:
    case Dtype::kInt64:
      return 8;
    case Dtype::kFloat32:
    case Dtype::kInt32:
      return 4;
    case Dtype::kFloat16:
    case Dtype::kBfloat16:
    case Dtype::kInt16:
      return 2;
    case Dtype::kInt8:
    case Dtype::kUint8:
    case Dtype::kBool:
      return 1;
  }
  return 0;
}

constexpr bool is_floating(Dtype dtype) {
  return dtype == Dtype::kFloat32 || dtype == Dtype::kFloat64 || dtype == Dtype::kFloat16 ||
         dtype == Dtype::kBfloat16;
}

constexpr bool is_block_scaled(ValueMode mode) {
  return mode == ValueMode::kInt8 || mode == ValueMode::kInt4 || mode == ValueMode::kTernary;
}

constexpr bool is_sign(ValueMode mode) {
  return mode == ValueMode::kSign || mode == ValueMode::kFlips;
}

// Whether the message says which positions are kept.
constexpr bool sends_support(SupportMode mode) {
  return mode == SupportMode::kSent || mode == SupportMode::kChanges;
}

// Whether the receiver needs the support of its base.
constexpr bool takes_base(SupportMode mode) {
  return mode == SupportMode::kShared || mode == SupportMode::kChanges;
}

constexpr ScaleMode scale_mode_of(ValueMode mode) {
  if (is_sign(mode) || mode == ValueMode::kModular) return ScaleMode::kTensor;
  return is_block_scaled(mode) ? ScaleMode::kBlock : ScaleMode::kNone;
}

constexpr uint64_t blocks_of(uint64_t count, uint8_t block_log2) {
  return (count + (1ull << block_log2) - 1) >> block_log2;
}

// Bytes of `count` values on the wire; of kFlips, those of the form with a bit a value.
constexpr uint64_t value_section_bytes(ValueMode mode, Dtype dtype, uint64_t count,
                                       uint8_t block_log2) {
  switch (mode) {
    case ValueMode::kNone:
      return 0;
    case ValueMode::kSign:
    case ValueMode::kFlips:
      return (count + 7) / 8;
    case ValueMode::kFp32:
    case ValueMode::kModular:
      return count * 4;
    case ValueMode::kBf16:
      return count * 2;
    case ValueMode::kInt8:
      return 2 * blocks_of(count, block_log2) + count;
    case ValueMode::kInt4:
      return 2 * blocks_of(count, block_log2) + (count + 1) / 2;
    case ValueMode::kTernary:
      return 2 * blocks_of(count, block_log2) + (count + 4) / 5;
    case ValueMode::kRaw:
      return count * item_bytes(dtype);
  }
  return 0;
}

// Bytes of one value in memory: signs as int8, raw as the tensor's dtype, modular as a word of 32
// bits, the others as float.
constexpr uint64_t memory_item_bytes(ValueMode mode, Dtype dtype) {
  switch (mode) {
    case ValueMode::kNone:
      return 0;
    case ValueMode::kSign:
    case ValueMode::kFlips:
      return 1;
    case ValueMode::kFp32:
    case ValueMode::kBf16:
    case ValueMode::kInt8:
    case ValueMode::kInt4:
    case ValueMode::kTernary:
    case ValueMode::kModular:
      return 4;
    case ValueMode::kRaw:
      return item_bytes(dtype);
  }
  return 0;
}

// Number of chunks of a tensor: one for each started span, none where a seed stands for it.
constexpr uint64_t chunks_of(SupportMode support, uint64_t numel, uint32_t span) {
  return support == SupportMode::kSeed ? 0 : (numel + span - 1) / span;
}

// Whether the format knows the pair of modes for a tensor of the dtype.
constexpr bool is_allowed(SupportMode support, ValueMode value, Dtype dtype) {
  if (support == SupportMode::kSeed) return value == ValueMode::kNone && is_floating(dtype);
  switch (value) {
    case ValueMode::kNone:
      return support != SupportMode::kDense;
    case ValueMode::kSign:
      return support != SupportMode::kDense && is_floating(dtype);
    case ValueMode::kFlips:
      return support == SupportMode::kShared && is_floating(dtype);
    case ValueMode::kModular:
      return !sends_support(support) && is_floating(dtype);
    case ValueMode::kFp32:
    case ValueMode::kBf16:
    case ValueMode::kInt8:
    case ValueMode::kInt4:
    case ValueMode::kTernary:
      return is_floating(dtype);
    case ValueMode::kRaw:
      return dtype != Dtype::kFloat32 && dtype != Dtype::kBfloat16;
  }
  return false;
}

}  // namespace sparsefl::codec
