// Adds whole and damaged messages on several threads and prints what became of the sums.
//
// Every buffer is on the heap and of the exact size, so that an address sanitizer sees one element
// too far, and a thread sanitizer two chunks that touch the same.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

#include "codec/accumulate.h"
#include "codec/crc32c.h"
#include "codec/message.h"
#include "random.h"

namespace {

using namespace sparsefl::codec;
using sparsefl::Random;

constexpr uint64_t kSchemaFingerprint = 0x0123456789ABCDEF;
constexpr uint64_t kBaseFingerprint = 77;

template <class T>
std::unique_ptr<T[]> zeros(size_t n) {
  return std::unique_ptr<T[]>(new T[n]());
}

struct Tensor {
  TensorSpec spec;
  Source source;
  std::unique_ptr<uint8_t[]> bitmap, values;
  std::unique_ptr<int8_t[]> base_signs;
  bool ranks = false;
};

uint64_t fill_bitmap(Tensor* t, uint32_t one_in, Random* random) {
  const uint64_t numel = t->spec.numel;
  t->bitmap = zeros<uint8_t>((numel + 7) / 8);
  uint64_t kept = 0;
  for (uint64_t i = 0; i < numel; ++i) {
    if (random->below(one_in) != 0) continue;
    t->bitmap[i / 8] |= static_cast<uint8_t>(1u << (i % 8));
    ++kept;
  }
  return kept;
}

Tensor make(uint32_t ordinal, uint64_t numel, Dtype dtype, SupportMode support, ValueMode value,
            uint32_t one_in, Random* random) {
  Tensor t;
  t.spec = {numel, dtype, 0};
  Source& s = t.source;
  s.ordinal = ordinal, s.support = support, s.value = value, s.count = numel;
  if (support != SupportMode::kDense) s.count = fill_bitmap(&t, one_in, random);
  s.bitmap = t.bitmap.get();
  const uint64_t item = memory_item_bytes(value, dtype);
  t.values = zeros<uint8_t>(s.count * item);
  for (uint64_t i = 0; i < s.count; ++i) {
    uint8_t* at = t.values.get() + i * item;
    if (item == 4) {
      store(at, static_cast<float>(random->below(2000)) / 8.0f - 100.0f);
    } else {
      *at = is_sign(value) && random->below(2) != 0 ? 0xFF : 1;
    }
  }
  s.values = t.values.get();
  s.scale = is_sign(value) ? 0.25f : 0.0f;
  if (is_sign(value) && support == SupportMode::kShared) {
    t.base_signs = zeros<int8_t>(s.count);
    for (uint64_t i = 0; i < s.count; ++i) t.base_signs[i] = random->below(40) == 0 ? -1 : 1;
    s.base_signs = t.base_signs.get();
  }
  return t;
}

std::vector<Tensor> tensors(bool large) {
  Random random(11);
  std::vector<Tensor> all;
  uint64_t numel = large ? 300007 : 203;
  for (ValueMode value : {ValueMode::kFp32, ValueMode::kInt8, ValueMode::kSign}) {
    for (SupportMode support : {SupportMode::kSent, SupportMode::kShared, SupportMode::kDense}) {
      if (value == ValueMode::kSign && support == SupportMode::kDense) continue;
      for (uint32_t one_in : {3u, 40u}) {
        const auto ordinal = static_cast<uint32_t>(all.size());
        all.push_back(make(ordinal, numel++, Dtype::kFloat32, support, value, one_in, &random));
        all.back().ranks = support == SupportMode::kShared && one_in == 3;
      }
    }
  }
  const auto ordinal = static_cast<uint32_t>(all.size());
  all.push_back(make(ordinal, 5, Dtype::kUint8, SupportMode::kSent, ValueMode::kRaw, 2, &random));
  return all;
}

// Sums of every tensor in memory of their own, and what is added to them.
template <class T>
struct Sums {
  Sums(const std::vector<Tensor>& all, SumType type) {
    for (const Tensor& t : all) {
      const uint64_t size = t.ranks ? t.source.count : t.spec.numel;
      sums.push_back(zeros<T>(size));
      weights.push_back(zeros<T>(size));
      sizes.push_back(size);
      const bool shared = t.source.support == SupportMode::kShared;
      Addend a;
      a.base = shared ? t.bitmap.get() : nullptr;
      a.base_signs = t.base_signs.get();
      a.base_count = t.base_signs ? t.source.count : 0;
      a.type = type;
      if (type != SumType::kInt32 || is_sign(t.source.value)) {
        a.sums = sums.back().get();
        a.weights = weights.back().get();
      }
      a.ranks = t.ranks;
      addends.push_back(a);
    }
  }

  uint32_t checksum() const {
    uint32_t crc = 0;
    for (size_t i = 0; i < sums.size(); ++i) {
      for (const T* from : {sums[i].get(), weights[i].get()})
        crc = crc32c(reinterpret_cast<const uint8_t*>(from), sizes[i] * sizeof(T), crc);
    }
    return crc;
  }

  std::vector<std::unique_ptr<T[]>> sums, weights;
  std::vector<size_t> sizes;
  std::vector<Addend> addends;
};

std::vector<uint8_t> encoded(const std::vector<Tensor>& all, size_t threads,
                             std::vector<TensorSpec>* schema) {
  std::vector<Source> sources;
  for (const Tensor& t : all) {
    schema->push_back(t.spec);
    sources.push_back(t.source);
  }
  Draft draft;
  if (!write(*schema, sources, Profile::kRans, &draft, threads).ok()) std::abort();
  std::vector<uint8_t> bytes(draft.size());
  finish(kSchemaFingerprint, kBaseFingerprint, 1, Profile::kRans, draft, bytes);
  return bytes;
}

template <class T>
void run(const char* name, bool large, SumType type, size_t held_bytes, size_t threads) {
  const std::vector<Tensor> all = tensors(large);
  std::vector<TensorSpec> schema;
  const std::vector<uint8_t> bytes = encoded(all, threads, &schema);
  Sums<T> sums(all, type);
  Accumulation accumulation(held_bytes);
  Message message;
  const auto data = std::make_unique<uint8_t[]>(bytes.size());
  const auto add = [&] {
    const Status status = parse({data.get(), bytes.size()}, kSchemaFingerprint, schema, &message);
    if (!status.ok()) return status;
    return accumulation.add({data.get(), bytes.size()}, schema, message, sums.addends, 2.0,
                            threads);
  };
  std::copy(bytes.begin(), bytes.end(), data.get());
  if (!add().ok()) std::abort();
  const Message whole = message;
  const uint32_t before = sums.checksum();
  std::printf("%s bytes %zu sums %08x\n", name, bytes.size(), before);
  // Damage that the checksums give away, and damage behind them.
  Random random(11);
  size_t refused = 0, turns = large ? 12 : 600;
  for (size_t i = 0; i < turns; ++i) {
    std::copy(bytes.begin(), bytes.end(), data.get());
    const Chunk& c = whole.chunks[random.below(whole.chunks.size())];
    const size_t size = static_cast<size_t>(body_bytes(c));
    if (size == 0) continue;
    data[c.offset + random.below(size)] ^= static_cast<uint8_t>(1u << random.below(8));
    if (add().ok() || sums.checksum() != before) std::abort();
    ++refused;
    // Whatever the damaged content is, its sums lie where they should.
    const size_t entry = kHeaderBytes + schema.size() * kDescriptorBytes +
                         static_cast<size_t>(&c - whole.chunks.data()) * kChunkBytes;
    store(data.get() + entry + chunk::kChecksumAt, crc32c(data.get() + c.offset, size));
    const size_t tables =
        kHeaderBytes + schema.size() * kDescriptorBytes + whole.chunks.size() * kChunkBytes;
    store<uint32_t>(data.get() + header::kChecksumAt, 0);
    store(data.get() + header::kChecksumAt, crc32c(data.get(), tables));
    const bool accepted = add().ok();
    if (!accepted && sums.checksum() != before) std::abort();
    if (accepted) {
      Sums<T> fresh(all, type);
      sums = std::move(fresh);
      std::copy(bytes.begin(), bytes.end(), data.get());
      if (!add().ok() || sums.checksum() != before) std::abort();
    }
  }
  std::printf("%s refused %zu\n", name, refused);
}

// What one set of kernels makes of sums at some positions, given as `kept` says.
template <class T>
struct AtPositions {
  AtPositions(const SumKernels<T>& kernels, const KeptPositions& kept, const float* values,
              const uint8_t* negative)
      : sums(zeros<T>(kept.n)), bytes(kept.n * sizeof(T)) {
    if constexpr (!std::is_integral_v<T>) kernels.add_at(sums.get(), kept, values, T(0.3));
    kernels.add_signs_at(sums.get(), kept, negative, T(7));
    kernels.raise_at(sums.get(), kept, T(-2));
  }
  bool operator==(const AtPositions& other) const {
    return std::memcmp(sums.get(), other.sums.get(), bytes) == 0;
  }
  std::unique_ptr<T[]> sums;
  size_t bytes;
};

// Positions as a bitmap and as indices, by the best kernels and by plain ones: the same bits.
template <class T>
void compare(const SumKernels<T>& kernels, const SumKernels<T>& scalar) {
  Random random(5);
  for (size_t n : {1, 63, 64, 65, 1000, 70001}) {
    for (uint32_t one_in : {1u, 3u, 40u}) {
      Tensor t;
      t.spec = {n, Dtype::kFloat32, 0};
      const size_t count = fill_bitmap(&t, one_in, &random);
      const auto indices = zeros<uint32_t>(count);
      for (size_t i = 0, j = 0; i < n; ++i)
        if ((t.bitmap[i / 8] >> (i % 8) & 1) != 0) indices[j++] = static_cast<uint32_t>(i);
      const auto values = zeros<float>(count + kSumSlack / sizeof(float));
      for (size_t j = 0; j < count; ++j)
        values[j] = static_cast<float>(random.below(2000)) - 999.5f;
      const auto negative = zeros<uint8_t>((count + 7) / 8 + kSumSlack);
      for (size_t j = 0; j < (count + 7) / 8; ++j)
        negative[j] = static_cast<uint8_t>(random.below(256));
      const KeptPositions bits{t.bitmap.get(), nullptr, n, count};
      const KeptPositions at{nullptr, indices.get(), n, count};
      const AtPositions<T> expected(scalar, at, values.get(), negative.get());
      for (const KeptPositions& kept : {bits, at}) {
        const AtPositions<T> found(kernels, kept, values.get(), negative.get());
        if (!(found == expected)) std::abort();
      }
    }
  }
}

}  // namespace

int main() {
  const AllSumKernels &best = sum_kernels(), &scalar = sum_kernels(sparsefl::Isa::kScalar);
  compare(best.float32, scalar.float32);
  compare(best.float64, scalar.float64);
  compare(best.int32, scalar.int32);
  compare(scalar.float32, scalar.float32);
  for (size_t threads : {1, 3}) {
    run<float>("float32 small", false, SumType::kFloat32, kHeldBytes, threads);
    run<double>("float64 small", false, SumType::kFloat64, 0, threads);
    run<int32_t>("int32 small", false, SumType::kInt32, 2048, threads);
    run<float>("float32 large", true, SumType::kFloat32, 1 << 20, threads);
  }
}
