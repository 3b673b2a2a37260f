// Feeds whole and damaged messages to the torch-free codec and prints what became of them.
//
// Every buffer is on the heap and of the exact size, so that an address sanitizer sees one byte too
// far. Damage that leaves the checksums right reaches the checks behind them.

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <vector>

#include "codec/crc32c.h"
#include "codec/message.h"
#include "random.h"

namespace {

using namespace sparsefl::codec;
using sparsefl::Buffer;
using sparsefl::Random;

constexpr uint64_t kSchemaFingerprint = 0x0123456789ABCDEF;
constexpr uint64_t kBaseFingerprint = 77;

// The tensors of one message and the memory behind them.
struct Case {
  std::vector<TensorSpec> schema;
  std::vector<Source> sources;
  std::vector<Buffer> memory;
};

const uint8_t* random_bitmap(Case* c, uint64_t numel, uint32_t one_in, Random* random,
                             uint64_t* kept) {
  c->memory.emplace_back((numel + 7) / 8);
  uint8_t* bits = c->memory.back().bytes.get();
  *kept = 0;
  for (uint64_t i = 0; i < numel; ++i) {
    if (random->below(one_in) != 0) continue;
    bits[i / 8] |= static_cast<uint8_t>(1u << (i % 8));
    ++*kept;
  }
  return bits;
}

const uint8_t* random_values(Case* c, ValueMode mode, Dtype dtype, uint64_t count, Random* random) {
  const uint64_t item = memory_item_bytes(mode, dtype);
  c->memory.emplace_back(count * item);
  uint8_t* out = c->memory.back().bytes.get();
  for (uint64_t i = 0; i < count; ++i) {
    if (mode == ValueMode::kSign) {
      out[i] = random->below(2) ? 1 : 0xFF;
    } else if (item == 4) {
      store(out + 4 * i, static_cast<float>(random->below(2000)) / 8.0f - 100.0f);
    } else {
      for (uint64_t j = 0; j < item; ++j)
        out[i * item + j] = static_cast<uint8_t>(random->below(2));
    }
  }
  return out;
}

// Signs of which one in `one_in` differs.
const int8_t* random_base_signs(Case* c, const uint8_t* signs, uint64_t count, uint32_t one_in,
                                Random* random) {
  c->memory.emplace_back(count);
  auto* out = reinterpret_cast<int8_t*>(c->memory.back().bytes.get());
  for (uint64_t i = 0; i < count; ++i)
    out[i] = static_cast<int8_t>(random->below(one_in) == 0 ? -signs[i] : signs[i]);
  return out;
}

void add(Case* c, uint64_t numel, Dtype dtype, SupportMode support, ValueMode value,
         uint32_t one_in, Random* random) {
  Source s;
  s.ordinal = static_cast<uint32_t>(c->schema.size());
  s.support = support;
  s.value = value;
  s.scale = value == ValueMode::kSign ? 0.25f : 0.0f;
  s.count = support == SupportMode::kSeed ? 0xFEDCBA9876543210u : numel;
  if (support == SupportMode::kSent || support == SupportMode::kShared)
    s.bitmap = random_bitmap(c, numel, one_in, random, &s.count);
  if (value != ValueMode::kNone) s.values = random_values(c, value, dtype, s.count, random);
  c->schema.push_back({numel, dtype, numel % 5 == 0 ? numel / 5 : 0});
  c->sources.push_back(s);
}

// Signs whose receiver has some that differ in one of `one_in`.
void add_flips(Case* c, uint64_t numel, uint32_t one_in, Random* random) {
  add(c, numel, Dtype::kFloat32, SupportMode::kShared, ValueMode::kSign, 1, random);
  Source& s = c->sources.back();
  s.base_signs = random_base_signs(c, s.values, s.count, one_in, random);
}

// A support whose receiver has another, that differs in one of `one_in` positions.
void add_changes(Case* c, uint64_t numel, uint32_t one_in, Random* random) {
  add(c, numel, Dtype::kFloat32, SupportMode::kSent, ValueMode::kNone, 3, random);
  uint64_t changed = 0;
  const uint8_t* changes = random_bitmap(c, numel, one_in, random, &changed);
  Source& s = c->sources.back();
  c->memory.emplace_back((numel + 7) / 8);
  uint8_t* base = c->memory.back().bytes.get();
  for (uint64_t i = 0; i < (numel + 7) / 8; ++i)
    base[i] = static_cast<uint8_t>(s.bitmap[i] ^ changes[i]);
  s.base_bitmap = base;
}

Case small_case(Random* random) {
  Case c;
  c.memory.reserve(64);
  add(&c, 37, Dtype::kFloat32, SupportMode::kSent, ValueMode::kFp32, 3, random);
  add(&c, 65, Dtype::kFloat32, SupportMode::kShared, ValueMode::kSign, 2, random);
  add(&c, 7, Dtype::kFloat32, SupportMode::kDense, ValueMode::kBf16, 1, random);
  add(&c, 9, Dtype::kFloat32, SupportMode::kSeed, ValueMode::kNone, 1, random);
  add(&c, 1, Dtype::kInt64, SupportMode::kDense, ValueMode::kRaw, 1, random);
  add(&c, 3, Dtype::kBool, SupportMode::kDense, ValueMode::kRaw, 1, random);
  add(&c, 0, Dtype::kFloat64, SupportMode::kDense, ValueMode::kFp32, 1, random);
  add(&c, 41, Dtype::kFloat16, SupportMode::kSent, ValueMode::kRaw, 1, random);
  add(&c, 19, Dtype::kUint8, SupportMode::kSent, ValueMode::kNone, 2, random);
  return c;
}

// Tensors of several chunks.
Case large_case(Random* random) {
  Case c;
  c.memory.reserve(64);
  add(&c, 140001, Dtype::kFloat32, SupportMode::kSent, ValueMode::kFp32, 2, random);
  add(&c, 65537, Dtype::kFloat32, SupportMode::kDense, ValueMode::kBf16, 1, random);
  return c;
}

Case small_coded_case(Random* random) {
  Case c;
  c.memory.reserve(64);
  add(&c, 301, Dtype::kFloat32, SupportMode::kSent, ValueMode::kFp32, 20, random);
  add_flips(&c, 263, 40, random);
  add(&c, 90, Dtype::kFloat32, SupportMode::kDense, ValueMode::kInt8, 1, random);
  add(&c, 145, Dtype::kFloat16, SupportMode::kSent, ValueMode::kInt4, 9, random);
  add_flips(&c, 77, 1000, random);
  add(&c, 400, Dtype::kBool, SupportMode::kSent, ValueMode::kNone, 100, random);
  add_changes(&c, 777, 30, random);
  return c;
}

Case large_coded_case(Random* random) {
  Case c;
  c.memory.reserve(64);
  add(&c, 300001, Dtype::kFloat32, SupportMode::kSent, ValueMode::kInt8, 7, random);
  add(&c, 1500000, Dtype::kBool, SupportMode::kSent, ValueMode::kNone, 300, random);
  add_flips(&c, 200003, 30, random);
  add(&c, 140000, Dtype::kFloat32, SupportMode::kDense, ValueMode::kInt4, 1, random);
  add_changes(&c, 5000000, 50, random);
  return c;
}

Buffer encode(const Case& c) {
  Draft draft;
  if (!write(c.schema, c.sources, Profile::kRans, &draft).ok()) std::abort();
  bool uses_base = false;
  for (const Descriptor& d : draft.descriptors) uses_base = uses_base || takes_base(d.support);
  Buffer out(draft.size());
  finish(kSchemaFingerprint, uses_base ? kBaseFingerprint : 0, 0, Profile::kRans, draft,
         {out.bytes.get(), out.size});
  return out;
}

// Decodes into buffers of the exact size and returns why not, or kNone.
Reason decode(const Case& c, const Buffer& data, bool with_base) {
  const std::span<const uint8_t> bytes(data.bytes.get(), data.size);
  Message message;
  const Status parsed = parse(bytes, kSchemaFingerprint, c.schema, &message);
  if (!parsed.ok()) return parsed.reason;
  std::vector<Buffer> memory;
  std::vector<Target> targets;
  for (const Descriptor& d : message.descriptors) {
    const TensorSpec& spec = c.schema[d.ordinal];
    Target target;
    if (with_base) {
      const Source& s = c.sources[d.ordinal];
      target.base = s.base_bitmap == nullptr ? s.bitmap : s.base_bitmap;
      target.base_signs = c.sources[d.ordinal].base_signs;
      target.base_count = c.sources[d.ordinal].count;
    }
    if (sends_support(d.support)) {
      memory.emplace_back((spec.numel + 7) / 8);
      target.bitmap = memory.back().bytes.get();
    }
    if (d.value != ValueMode::kNone) {
      memory.emplace_back(d.count * memory_item_bytes(d.value, spec.dtype));
      target.values = memory.back().bytes.get();
    }
    targets.push_back(target);
  }
  return read(bytes, c.schema, message, targets).reason;
}

// Makes the checksums those of the bytes, as far as the tables lie within the message.
void seal(Buffer* data) {
  uint8_t* h = data->bytes.get();
  if (data->size < kHeaderBytes) return;
  const uint64_t directory =
      kHeaderBytes + uint64_t{kDescriptorBytes} * load<uint32_t>(h + header::kTensorsAt);
  const uint64_t chunks = load<uint32_t>(h + header::kChunksAt);
  uint64_t offset = directory + kChunkBytes * chunks;
  if (offset > data->size) return;
  for (uint64_t i = 0; i < chunks; ++i) {
    uint8_t* entry = h + directory + i * kChunkBytes;
    const uint64_t bytes = uint64_t{load<uint32_t>(entry + chunk::kSupportBytesAt)} +
                           load<uint32_t>(entry + chunk::kValueBytesAt);
    if (bytes > data->size - offset) break;
    store(entry + chunk::kChecksumAt, crc32c(h + offset, bytes));
    offset += bytes;
  }
  const uint64_t tables = directory + kChunkBytes * chunks;
  store(h + header::kChecksumAt, uint32_t{0});
  store(h + header::kChecksumAt, crc32c(h, tables));
}

Buffer resized(const Buffer& data, size_t size) {
  Buffer out(size);
  std::memcpy(out.bytes.get(), data.bytes.get(), std::min(size, data.size));
  return out;
}

Buffer damaged(const Buffer& data, Random* random) {
  static constexpr uint32_t kHostile[] = {0,      1,          7,          0xFF,
                                          0xFFFF, 0x00FFFFFF, 0x7FFFFFFF, 0xFFFFFFFF};
  size_t size = data.size;
  if (random->below(8) == 0) size = random->below(data.size + 64);
  Buffer out = resized(data, size);
  uint8_t* bytes = out.bytes.get();
  if (size >= kHeaderBytes && random->below(4) != 0)
    store(bytes + header::kTotalBytesAt, static_cast<uint64_t>(size));
  for (uint32_t n = random->below(3) + 1; n != 0 && size >= 4; --n) {
    // Half of the damage goes to header and tables, where the structure is.
    const uint32_t at = random->below(random->below(2) ? std::min<size_t>(size, 320) : size);
    switch (random->below(3)) {
      case 0:
        bytes[at] ^= static_cast<uint8_t>(1u << random->below(8));
        break;
      case 1:
        bytes[at] = static_cast<uint8_t>(random->next());
        break;
      default:
        store(bytes + std::min<size_t>(at & ~3u, size - 4), kHostile[random->below(8)]);
    }
  }
  if (random->below(8) != 0) seal(&out);
  return out;
}

void run(const char* name, const Case& c, int rounds, Random* random) {
  const Buffer whole = encode(c);
  std::printf("%s bytes %zu crc32c %08x refused %d\n", name, whole.size,
              crc32c(whole.bytes.get(), whole.size), static_cast<int>(decode(c, whole, true)));
  int cut = 0;
  for (size_t size = 0; size < whole.size; size += whole.size > 4096 ? 4093 : 1)
    cut += decode(c, resized(whole, size), true) != Reason::kNone;
  int flipped = 0;
  const size_t stride = whole.size > 4096 ? 40009 : 1;
  for (size_t bit = 0; bit < whole.size * 8; bit += stride) {
    Buffer out = resized(whole, whole.size);
    out.bytes[bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
    flipped += decode(c, out, true) != Reason::kNone;
  }
  std::map<int, int> reasons;
  for (int i = 0; i < rounds; ++i) {
    const Buffer out = damaged(whole, random);
    const bool with_base = random->below(16) != 0;
    ++reasons[static_cast<int>(decode(c, out, with_base))];
  }
  std::printf("%s cut %d flipped %d damaged", name, cut, flipped);
  for (const auto& [reason, times] : reasons) std::printf(" %d:%d", reason, times);
  std::printf("\n");
}

}  // namespace

int main() {
  Random random(1);
  run("small", small_case(&random), 40000, &random);
  run("large", large_case(&random), 200, &random);
  run("small coded", small_coded_case(&random), 40000, &random);
  run("large coded", large_coded_case(&random), 200, &random);
  return 0;
}
