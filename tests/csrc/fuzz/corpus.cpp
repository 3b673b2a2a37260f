// The cases of the corpus, made anew from fixed seeds.
#include <initializer_list>

#include "make.h"

namespace sparsefl::fuzz {
namespace {

using codec::BitCoder;
using codec::Dtype;
using codec::Profile;
using codec::SupportMode;
using codec::ValueMode;

constexpr BitCoder kCoders[] = {BitCoder::kBitmap,   BitCoder::kRice, BitCoder::kRansBytes,
                                BitCoder::kRansGaps, BitCoder::kRows, BitCoder::kTiles};

Case one_message(std::initializer_list<Plan> plans, Dtype dtype, uint64_t numel, uint64_t seed) {
  Random random(seed);
  Case c;
  for (size_t i = 0; i < plans.size(); ++i) c.tensors.push_back(make_schema(numel, dtype, &random));
  Parts parts;
  parts.profile = static_cast<uint32_t>(Profile::kRans);
  uint32_t ordinal = 0;
  for (const Plan& plan : plans) parts.tensors.push_back(make_tensor(c, ordinal++, plan, &random));
  settle_base(&parts);
  c.message = put_together(parts);
  return c;
}

Plan plan_of(SupportMode support, ValueMode value, uint8_t value_coder = 0) {
  Plan plan;
  plan.support = support;
  plan.value = value;
  plan.value_coder = value_coder;
  return plan;
}

// Each way to code a support, sent and as changes, and signs; of a style each.
void add_bit_codes(std::vector<Case>* out) {
  for (size_t i = 0; i < kBitStyles; ++i) {
    Plan sent = plan_of(SupportMode::kSent, ValueMode::kNone);
    sent.support_coder = kCoders[i];
    sent.support_style = static_cast<BitStyle>(i);
    Plan changes = sent;
    changes.support = SupportMode::kChanges;
    Plan signs = plan_of(SupportMode::kShared, ValueMode::kSign, static_cast<uint8_t>(1 + i));
    Plan flips = signs;
    flips.value = ValueMode::kFlips;
    out->push_back(one_message({sent}, Dtype::kBool, 700, i));
    out->push_back(one_message({changes}, Dtype::kFloat32, 1000, i));
    out->push_back(one_message({signs, flips}, Dtype::kFloat32, 900, i));
  }
}

// Each value mode, raw and in planes, in a style each.
void add_values(std::vector<Case>* out) {
  size_t style = 0;
  for (const uint8_t coder : {0, 1}) {
    for (const ValueMode mode : {ValueMode::kFp32, ValueMode::kBf16, ValueMode::kInt8,
                                 ValueMode::kInt4, ValueMode::kTernary}) {
      Plan plan = plan_of(SupportMode::kDense, mode, coder);
      plan.value_style = static_cast<ValueStyle>(style++ % kValueStyles);
      Plan sparse = plan;
      sparse.support = SupportMode::kSent;
      sparse.value_style = static_cast<ValueStyle>(style++ % kValueStyles);
      out->push_back(one_message({plan, sparse}, Dtype::kFloat32, 300, style));
    }
    for (const Dtype dtype : {Dtype::kFloat16, Dtype::kFloat64, Dtype::kInt64, Dtype::kBool})
      out->push_back(
          one_message({plan_of(SupportMode::kDense, ValueMode::kRaw, coder)}, dtype, 200, style++));
  }
}

}  // namespace

std::vector<Case> corpus_cases() {
  std::vector<Case> out;
  add_bit_codes(&out);
  add_values(&out);
  const Plan seed = [] {
    Plan plan = plan_of(SupportMode::kSeed, ValueMode::kNone);
    plan.span = 0;
    return plan;
  }();
  out.push_back(one_message({seed, plan_of(SupportMode::kDense, ValueMode::kFp32), seed},
                            Dtype::kFloat32, 1, 1));
  out.push_back(one_message({}, Dtype::kFloat32, 0, 1));
  out.push_back(one_message({plan_of(SupportMode::kDense, ValueMode::kModular),
                             plan_of(SupportMode::kShared, ValueMode::kModular)},
                            Dtype::kFloat32, 30, 1));
  Plan chunks = plan_of(SupportMode::kSent, ValueMode::kInt8, 1);
  chunks.support_coder = BitCoder::kRice;
  chunks.value_style = ValueStyle::kGeometric;
  chunks.support_style = BitStyle::kFar;
  out.push_back(one_message({chunks}, Dtype::kFloat32, 140001, 1));
  return out;
}

}  // namespace sparsefl::fuzz
