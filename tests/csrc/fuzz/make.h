// Makes sound messages of every mode and coder.
#pragma once

#include "case.h"
#include "codec/bit_code.h"
#include "codec/format.h"
#include "content.h"
#include "parts.h"
#include "random.h"

namespace sparsefl::fuzz {

inline constexpr uint8_t kBestLanes = 0xFF;

// The modes of one tensor and the coders of its chunks, where these have a code of the content.
struct Plan {
  codec::SupportMode support = codec::SupportMode::kDense;
  codec::ValueMode value = codec::ValueMode::kNone;
  codec::BitCoder support_coder = codec::BitCoder::kBitmap;
  BitStyle support_style = BitStyle::kEven;
  // Of supports by kRansBytes, log2 of the lanes; kBestLanes: those that encoders take.
  uint8_t lanes_log2 = kBestLanes;
  // Of signs, 0 or 1 + a BitCoder; of other values, 0 for raw ones, 2 for
  // classes wherever they are allowed.
  uint8_t value_coder = 0;
  BitStyle sign_style = BitStyle::kEven;
  ValueStyle value_style = ValueStyle::kNormal;
  uint32_t span = codec::kMinSpan;
  uint8_t block_log2 = codec::kMinBlockLog2;
};

// A plan that the format allows for the tensor.
Plan random_plan(const Tensor& tensor, Random* random);

// A part of a message with the content that the plan asks for.
TensorPart make_tensor(const Case& c, uint32_t ordinal, const Plan& plan, Random* random);

// A tensor of about `numel` positions of a dtype, with a base.
Tensor make_schema(uint64_t numel, codec::Dtype dtype, Random* random);

// A schema, what the receiver has, and a message; small but for one in a few hundred.
Case random_case(Random* random);

// The cases of the corpus: each mode with each coder.
std::vector<Case> corpus_cases();

}  // namespace sparsefl::fuzz
