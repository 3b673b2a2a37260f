// The cases of the corpus, made anew from fixed seeds.
#include <initializer_list>
#include <iterator>

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

// A message of one tensor that the receiver's base has not.
Case bare_message(const Plan& plan, uint64_t numel, uint64_t row, uint64_t seed,
                  Dtype dtype = Dtype::kFloat32) {
  Random random(seed);
  Case c;
  c.tensors.emplace_back();
  c.tensors[0].spec = {numel, dtype, row};
  Parts parts;
  parts.profile = static_cast<uint32_t>(Profile::kRans);
  parts.tensors.push_back(make_tensor(c, 0, plan, &random));
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
  for (size_t i = 0; i < std::size(kCoders); ++i) {
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

// Each value mode, raw, in planes and by classes, in a style each.
void add_values(std::vector<Case>* out) {
  size_t style = 0;
  for (const uint8_t coder : {0, 1, 2}) {
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

// Words of many lanes, that vector units decode, of an alphabet of bytes of each size that their
// look-ups tell apart.
void add_lanes(std::vector<Case>* out) {
  for (const uint8_t lanes_log2 : {2, 5, 6}) {
    for (const uint64_t seed : {3, 4, 5, 8}) {
      Plan plan = plan_of(SupportMode::kSent, ValueMode::kNone);
      plan.support_coder = BitCoder::kRansBytes;
      plan.lanes_log2 = lanes_log2;
      plan.support_style = BitStyle::kEven;
      out->push_back(bare_message(plan, 20000, 0, 40 + seed));
    }
  }
}

// Gaps of more than 16 bits, and tiles.
void add_supports(std::vector<Case>* out) {
  for (const BitCoder coder : {BitCoder::kRice, BitCoder::kRansGaps}) {
    Plan plan = plan_of(SupportMode::kSent, ValueMode::kNone);
    plan.span = codec::kMaxSpan;
    plan.support_coder = coder;
    plan.support_style = BitStyle::kWide;
    out->push_back(bare_message(plan, 140001, 0, 1));
  }
  for (const uint64_t seed : {1, 2, 3, 4}) {
    Plan plan = plan_of(SupportMode::kSent, ValueMode::kSign);
    plan.support_coder = BitCoder::kTiles;
    plan.support_style = BitStyle::kSquares;
    out->push_back(bare_message(plan, 144 * 128, 128, seed));
  }
}

// Kept positions that are few, or many, of values of each kind: sums take them in other ways.
void add_sums(std::vector<Case>* out) {
  for (const ValueMode value : {ValueMode::kSign, ValueMode::kFp32, ValueMode::kRaw}) {
    for (const BitStyle style : {BitStyle::kEven, BitStyle::kFar}) {
      for (const uint64_t seed : {1, 2, 3, 6}) {
        Plan plan = plan_of(SupportMode::kSent, value);
        plan.support_style = style;
        const Dtype dtype = value == ValueMode::kRaw ? Dtype::kInt16 : Dtype::kFloat32;
        out->push_back(bare_message(plan, 700 + 61 * seed, 0, seed, dtype));
      }
    }
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
  add_lanes(&out);
  add_supports(&out);
  add_sums(&out);
  return out;
}

}  // namespace sparsefl::fuzz
