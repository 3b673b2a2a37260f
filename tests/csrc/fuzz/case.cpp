#include "case.h"

#include <algorithm>

#include "codec/bits.h"

namespace sparsefl::fuzz {
namespace {

using codec::load;
using codec::store;

constexpr size_t kTensorBytes = 10;

// Takes the first bytes of what is left, and zeros where there are too few.
Bytes take(std::span<const uint8_t>* rest, size_t bytes) {
  Bytes out(bytes);
  const size_t there = std::min(bytes, rest->size());
  std::copy_n(rest->begin(), there, out.begin());
  *rest = rest->subspan(there);
  return out;
}

}  // namespace

std::vector<codec::TensorSpec> schema_of(const Case& c) {
  std::vector<codec::TensorSpec> schema;
  for (const Tensor& t : c.tensors) schema.push_back(t.spec);
  return schema;
}

uint64_t positions_of(const Case& c) {
  uint64_t positions = 0;
  for (const Tensor& t : c.tensors) positions += t.spec.numel;
  return positions;
}

void set_base(Bytes bitmap, bool has_signs, std::span<const uint8_t> signs, Tensor* tensor) {
  const uint64_t numel = tensor->spec.numel;
  bitmap.resize((numel + 7) / 8);
  if (numel % 8 != 0) bitmap.back() &= static_cast<uint8_t>((1u << (numel % 8)) - 1);
  tensor->has_base = true;
  tensor->has_signs = has_signs;
  tensor->base = std::move(bitmap);
  tensor->signs.clear();
  if (!has_signs) return;
  tensor->signs.assign(codec::popcount(tensor->base.data(), tensor->base.size()), 1);
  const size_t stated = std::min(tensor->signs.size(), 8 * signs.size());
  for (size_t i = 0; i < stated; ++i)
    if (signs[i / 8] >> (i % 8) & 1) tensor->signs[i] = -1;
}

Case load_case(std::span<const uint8_t> file) {
  Case c;
  const size_t tensors = std::min<size_t>(take(&file, 1)[0], kMaxTensors);
  std::vector<uint8_t> bases;
  for (size_t i = 0; i < tensors; ++i) {
    const Bytes from = take(&file, kTensorBytes);
    Tensor t;
    t.spec.numel = std::min<uint64_t>(load<uint32_t>(from.data()), kMaxNumel / tensors);
    const uint64_t row = load<uint32_t>(from.data() + 4);
    t.spec.row = row != 0 && t.spec.numel % row == 0 ? row : 0;
    t.spec.dtype = static_cast<codec::Dtype>(from[8] % 10 + 1);
    bases.push_back(from[9] % 3);
    c.tensors.push_back(t);
  }
  for (size_t i = 0; i < tensors; ++i) {
    Tensor& t = c.tensors[i];
    if (bases[i] == 0) continue;
    Bytes bitmap = take(&file, (t.spec.numel + 7) / 8);
    set_base(std::move(bitmap), false, {}, &t);
    if (bases[i] != 2) continue;
    const uint64_t kept = codec::popcount(t.base.data(), t.base.size());
    set_base(t.base, true, take(&file, (kept + 7) / 8), &t);
  }
  c.message.assign(file.begin(), file.end());
  return c;
}

Bytes store_case(const Case& c) {
  Bytes out = {static_cast<uint8_t>(c.tensors.size())};
  for (const Tensor& t : c.tensors) {
    uint8_t to[kTensorBytes];
    store(to, static_cast<uint32_t>(t.spec.numel));
    store(to + 4, static_cast<uint32_t>(t.spec.row));
    to[8] = static_cast<uint8_t>(static_cast<uint8_t>(t.spec.dtype) - 1);
    to[9] = static_cast<uint8_t>(t.has_base + t.has_signs);
    out.insert(out.end(), to, to + kTensorBytes);
  }
  for (const Tensor& t : c.tensors) {
    out.insert(out.end(), t.base.begin(), t.base.end());
    Bytes packed((t.signs.size() + 7) / 8);
    codec::pack_signs(t.signs.data(), t.signs.size(), packed.data());
    out.insert(out.end(), packed.begin(), packed.end());
  }
  out.insert(out.end(), c.message.begin(), c.message.end());
  return out;
}

}  // namespace sparsefl::fuzz
