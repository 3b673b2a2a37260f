// What a receiver holds, and a message for it: one file of the corpus.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "codec/format.h"

namespace sparsefl::fuzz {

using Bytes = std::vector<uint8_t>;

inline constexpr uint64_t kSchemaFingerprint = 0x0123456789ABCDEF;
inline constexpr uint64_t kBaseFingerprint = 77;
// A case of more tensors or positions is cut down: executions a second matter more.
inline constexpr size_t kMaxTensors = 12;
inline constexpr uint64_t kMaxNumel = uint64_t{1} << 18;

// A tensor of the schema and what the receiver's base has of it.
struct Tensor {
  codec::TensorSpec spec;
  bool has_base = false;
  bool has_signs = false;
  Bytes base;                 // ceil(numel / 8) bytes, or none
  std::vector<int8_t> signs;  // one a position of the base, or none
};

struct Case {
  std::vector<Tensor> tensors;
  Bytes message;
};

std::vector<codec::TensorSpec> schema_of(const Case& c);

// Positions of the schema: what memory and time of a decoder may grow with.
uint64_t positions_of(const Case& c);

// Sets the base of a tensor; signs are +1 where `signs` has too few bytes.
void set_base(Bytes bitmap, bool has_signs, std::span<const uint8_t> signs, Tensor* tensor);

// Reads a file: any bytes are one, sizes beyond the limits and missing bytes are made to fit.
Case load_case(std::span<const uint8_t> file);

// Writes the file of a case: u8 tensors; for each u32 numel, u32 row, u8 dtype, u8 base (0 none, 1
// bitmap, 2 signs too); for each the bitmap and the packed signs of its base; the message.
Bytes store_case(const Case& c);

}  // namespace sparsefl::fuzz
