#include "sums.h"

#include <cmath>

#include "codec/accumulate.h"
#include "codec/bits.h"

namespace sparsefl::fuzz {
namespace {

using codec::Dtype;
using codec::load;
using codec::Reason;
using codec::SumType;
using codec::SupportMode;
using codec::ValueMode;

// What a sum is before: of another value than 0, so that what is added is seen.
constexpr int kBefore = 1;

bool adds(const codec::Descriptor& d) {
  return d.value != ValueMode::kNone && d.value != ValueMode::kModular;
}

double half(uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const int digits = (bits & 1023) + (exponent == 0 ? 0 : 1024);
  return std::ldexp(bits >> 15 != 0 ? -digits : digits, (exponent == 0 ? 1 : exponent) - 25);
}

double raw_at(Dtype dtype, const uint8_t* at) {
  switch (dtype) {
    case Dtype::kFloat64:
      return load<double>(at);
    case Dtype::kFloat16:
      return half(load<uint16_t>(at));
    case Dtype::kInt64:
      return static_cast<double>(load<int64_t>(at));
    case Dtype::kInt32:
      return load<int32_t>(at);
    case Dtype::kInt16:
      return load<int16_t>(at);
    case Dtype::kInt8:
      return load<int8_t>(at);
    default:
      return *at;
  }
}

// Value i of a descriptor as sums take it, the scale of signs for sums of integers apart.
double value_at(const codec::Descriptor& d, Dtype dtype, const Guarded& values, size_t i) {
  const uint8_t* at = values.data() + i * codec::memory_item_bytes(d.value, dtype);
  if (codec::is_sign(d.value)) return double{d.scale} * load<int8_t>(at);
  return d.value == ValueMode::kRaw ? raw_at(dtype, at) : double{load<float>(at)};
}

// Sums of one descriptor in memory of the exact size, of any type that they may have.
struct Sums {
  SumType type;
  bool ranks;
  uint64_t size;
  Guarded sums, weights;
};

size_t item_bytes(SumType type) { return type == SumType::kFloat64 ? 8 : 4; }

template <class T>
void fill(T value, uint64_t size, const Guarded& sums) {
  for (uint64_t i = 0; i < size; ++i) codec::store(sums.data() + sizeof(T) * i, value);
}

// The case's bytes decide which kind of sums it is added to.
Sums make_sums(const codec::Descriptor& d, const Tensor& tensor, size_t draw) {
  constexpr SumType kTypes[] = {SumType::kFloat64, SumType::kFloat32, SumType::kInt32};
  SumType type = kTypes[draw % 3];
  if (type == SumType::kInt32 && !codec::is_sign(d.value)) type = SumType::kFloat32;
  const bool ranks = draw % 2 != 0 && d.support == SupportMode::kShared && tensor.has_base;
  uint64_t size = ranks ? codec::popcount(tensor.base.data(), tensor.base.size()) : 0;
  if (!ranks && adds(d)) size = tensor.spec.numel;
  const size_t bytes = size * item_bytes(type);
  Sums out{type, ranks, size, Guarded(bytes, 0), Guarded(draw % 4 == 0 ? bytes : 0, 0)};
  if (type == SumType::kFloat64) fill(double{kBefore}, size, out.sums);
  if (type == SumType::kFloat32) fill(float{kBefore}, size, out.sums);
  if (type == SumType::kInt32) fill(int32_t{kBefore}, size, out.sums);
  return out;
}

template <class T>
void check_sum(const Case& c, const Decoded& decoded, size_t i, const Sums& sums) {
  const codec::Descriptor& d = decoded.message.descriptors[i];
  const Tensor& tensor = c.tensors[d.ordinal];
  const bool added = decoded.reason == Reason::kNone;
  const bool all = sums.ranks || d.support == SupportMode::kDense;
  const uint8_t* bits =
      codec::sends_support(d.support) ? decoded.bitmaps[i].data() : address_of(tensor.base);
  size_t next = 0;
  for (uint64_t p = 0; p < sums.size; ++p) {
    const bool kept = added && (all || (bits[p / 8] >> (p % 8) & 1) != 0);
    T expected = kBefore;
    if (kept && sums.type == SumType::kInt32)
      expected += static_cast<T>(load<int8_t>(decoded.values[i].data() + next++));
    else if (kept)
      expected += static_cast<T>(value_at(d, tensor.spec.dtype, decoded.values[i], next++));
    require(load<T>(sums.sums.data() + sizeof(T) * p) == expected,
            "a sum is not that of the values");
    require(sums.weights.size() == 0 ||
                load<T>(sums.weights.data() + sizeof(T) * p) == static_cast<T>(kept),
            "a sum of weights is not that of the values");
  }
}

}  // namespace

void check_sums(const Case& c, const Decoded& decoded) {
  const Guarded data(c.message);
  std::vector<Sums> sums;
  std::vector<codec::Addend> addends;
  for (const codec::Descriptor& d : decoded.message.descriptors) {
    const Tensor& tensor = c.tensors[d.ordinal];
    sums.push_back(make_sums(d, tensor, data.size() + addends.size()));
    codec::Addend addend;
    if (tensor.has_base) addend.base = address_of(tensor.base);
    if (tensor.has_signs) addend.base_signs = address_of(tensor.signs);
    addend.base_count = tensor.signs.size();
    addend.type = sums.back().type;
    addend.ranks = sums.back().ranks;
    if (adds(d)) addend.sums = sums.back().sums.data();
    if (adds(d) && sums.back().weights.size() != 0) addend.weights = sums.back().weights.data();
    addends.push_back(addend);
  }
  // Chunks that are not held are decoded twice.
  const size_t held_bytes = data.size() % 2 == 0 ? codec::kHeldBytes : 0;
  // To start a thread takes longer than to decode most messages.
  const size_t threads = data.size() % 16 == 0 ? 2 : 1;
  codec::Accumulation accumulation(held_bytes);
  const codec::Status status = accumulation.add({data.data(), data.size()}, schema_of(c),
                                                decoded.message, addends, 1.0, threads);
  require(status.reason == decoded.reason, "sums are refused for another reason");
  for (size_t i = 0; i < sums.size(); ++i) {
    if (!adds(decoded.message.descriptors[i])) continue;
    if (sums[i].type == SumType::kFloat64) check_sum<double>(c, decoded, i, sums[i]);
    if (sums[i].type == SumType::kFloat32) check_sum<float>(c, decoded, i, sums[i]);
    if (sums[i].type == SumType::kInt32) check_sum<int32_t>(c, decoded, i, sums[i]);
  }
}

}  // namespace sparsefl::fuzz
