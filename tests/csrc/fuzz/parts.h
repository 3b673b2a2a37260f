// Messages taken apart: put together again, lengths, offsets and checksums are right.
#pragma once

#include <vector>

#include "case.h"
#include "codec/format.h"

namespace sparsefl::fuzz {

struct ChunkPart {
  Bytes support, values;
  uint32_t count = 0;
  uint8_t support_coder = 0, value_coder = 0;
};

struct TensorPart {
  uint32_t ordinal = 0;
  codec::SupportMode support = codec::SupportMode::kDense;
  codec::ValueMode value = codec::ValueMode::kNone;
  codec::ScaleMode scale_mode = codec::ScaleMode::kNone;
  uint8_t block_log2 = 0;
  uint32_t span = 0;
  uint32_t scale = 0;  // the bits of a float
  uint64_t count = 0;
  std::vector<ChunkPart> chunks;
};

struct Parts {
  uint16_t major = codec::kMajor, minor = 0;
  uint32_t flags = 0, round = 0, profile = 0, reserved = 0;
  uint64_t schema = kSchemaFingerprint;
  // Whether a fingerprint stands in the base's field, as put_together() gives it.
  bool has_base = false;
  std::vector<TensorPart> tensors;
};

// Makes the field of the base the one that the support modes ask for.
void settle_base(Parts* parts);

// Makes the count of a tensor the sum of its chunks'.
void settle_count(TensorPart* tensor);

// Takes what of a message lies within its bytes, whatever they are.
Parts take_apart(const Case& c);

Bytes put_together(const Parts& parts);

// Makes the checksums of a message right, as far as its tables lie within it.
void seal(Bytes* message);

}  // namespace sparsefl::fuzz
