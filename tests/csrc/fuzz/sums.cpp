#include "sums.h"

#include "codec/accumulate.h"

namespace sparsefl::fuzz {
namespace {

using codec::Dtype;
using codec::load;
using codec::Reason;
using codec::SupportMode;
using codec::ValueMode;

// What a sum is before: of another value than 0, so that what is added is seen.
constexpr double kBefore = 1.0;

bool adds(const codec::Descriptor& d) {
  return d.value != ValueMode::kNone && d.value != ValueMode::kModular;
}

double raw_at(Dtype dtype, const uint8_t* at) {
  switch (dtype) {
    case Dtype::kFloat64:
      return load<double>(at);
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

// Value i of a descriptor as a number.
double value_at(const codec::Descriptor& d, Dtype dtype, const Guarded& values, size_t i) {
  const uint8_t* at = values.data() + i * codec::memory_item_bytes(d.value, dtype);
  if (codec::is_sign(d.value)) return double{d.scale} * load<int8_t>(at);
  return d.value == ValueMode::kRaw ? raw_at(dtype, at) : double{load<float>(at)};
}

void check_sum(const Case& c, const Decoded& decoded, size_t i, const Guarded& sums) {
  const codec::Descriptor& d = decoded.message.descriptors[i];
  const Tensor& tensor = c.tensors[d.ordinal];
  const bool added = decoded.reason == Reason::kNone && adds(d);
  // Halves have no type here.
  if (added && d.value == ValueMode::kRaw && tensor.spec.dtype == Dtype::kFloat16) return;
  const uint8_t* bits =
      codec::sends_support(d.support) ? decoded.bitmaps[i].data() : address_of(tensor.base);
  size_t next = 0;
  for (uint64_t p = 0; p < tensor.spec.numel; ++p) {
    const bool kept = d.support == SupportMode::kDense || (bits[p / 8] >> (p % 8) & 1) != 0;
    double expected = kBefore;
    if (added && kept) expected += value_at(d, tensor.spec.dtype, decoded.values[i], next++);
    require(load<double>(sums.data() + 8 * p) == expected, "a sum is not that of the values");
  }
}

}  // namespace

void check_sums(const Case& c, const Decoded& decoded) {
  const Guarded data(c.message);
  std::vector<Guarded> sums;
  std::vector<codec::Addend> addends;
  for (const codec::Descriptor& d : decoded.message.descriptors) {
    const Tensor& tensor = c.tensors[d.ordinal];
    const uint64_t numel = adds(d) ? tensor.spec.numel : 0;
    sums.emplace_back(8 * numel, 0);
    for (uint64_t p = 0; p < numel; ++p) codec::store(sums.back().data() + 8 * p, kBefore);
    codec::Addend addend;
    if (tensor.has_base) addend.base = address_of(tensor.base);
    if (tensor.has_signs) addend.base_signs = address_of(tensor.signs);
    addend.base_count = tensor.signs.size();
    addend.type = codec::SumType::kFloat64;
    if (adds(d)) addend.sums = sums.back().data();
    addends.push_back(addend);
  }
  // Chunks that are not held are decoded twice.
  const size_t held_bytes = data.size() % 2 == 0 ? codec::kHeldBytes : 0;
  codec::Accumulation accumulation(held_bytes);
  const codec::Status status =
      accumulation.add({data.data(), data.size()}, schema_of(c), decoded.message, addends, 1.0, 1);
  require(status.reason == decoded.reason, "sums are refused for another reason");
  for (size_t i = 0; i < sums.size(); ++i)
    if (adds(decoded.message.descriptors[i])) check_sum(c, decoded, i, sums[i]);
}

}  // namespace sparsefl::fuzz
