#include "parts.h"

#include <algorithm>

#include "codec/crc32c.h"

namespace sparsefl::fuzz {
namespace {

using codec::load;
using codec::store;
namespace header = codec::header;
namespace descriptor = codec::descriptor;
namespace chunk = codec::chunk;

constexpr size_t kMostChunks = 64;

TensorPart load_tensor(const uint8_t* from) {
  TensorPart t;
  t.ordinal = load<uint32_t>(from + descriptor::kOrdinalAt);
  t.support = static_cast<codec::SupportMode>(from[descriptor::kSupportAt]);
  t.value = static_cast<codec::ValueMode>(from[descriptor::kValueAt]);
  t.scale_mode = static_cast<codec::ScaleMode>(from[descriptor::kScaleModeAt]);
  t.block_log2 = from[descriptor::kBlockAt];
  t.span = load<uint32_t>(from + descriptor::kSpanAt);
  t.scale = load<uint32_t>(from + descriptor::kScaleAt);
  t.count = load<uint64_t>(from + descriptor::kCountAt);
  return t;
}

void store_tensor(const TensorPart& t, uint8_t* to) {
  store(to + descriptor::kOrdinalAt, t.ordinal);
  to[descriptor::kSupportAt] = static_cast<uint8_t>(t.support);
  to[descriptor::kValueAt] = static_cast<uint8_t>(t.value);
  to[descriptor::kScaleModeAt] = static_cast<uint8_t>(t.scale_mode);
  to[descriptor::kBlockAt] = t.block_log2;
  store(to + descriptor::kSpanAt, t.span);
  store(to + descriptor::kScaleAt, t.scale);
  store(to + descriptor::kCountAt, t.count);
}

void store_chunk(const ChunkPart& c, uint8_t* to) {
  store(to + chunk::kSupportBytesAt, static_cast<uint32_t>(c.support.size()));
  store(to + chunk::kValueBytesAt, static_cast<uint32_t>(c.values.size()));
  store(to + chunk::kCountAt, c.count & 0x00FFFFFF);
  to[chunk::kCodersAt] = static_cast<uint8_t>((c.support_coder & 15) | c.value_coder << 4);
}

// Takes the next `bytes` bytes, or what is left.
Bytes take(const Bytes& from, uint64_t bytes, size_t* at) {
  const size_t there = std::min<uint64_t>(bytes, from.size() - *at);
  const auto begin = from.begin() + static_cast<ptrdiff_t>(*at);
  *at += there;
  return Bytes(begin, begin + static_cast<ptrdiff_t>(there));
}

std::vector<ChunkPart> load_chunks(const Bytes& message, size_t directory, size_t chunks) {
  std::vector<ChunkPart> out(chunks);
  size_t at = directory + chunks * codec::kChunkBytes;
  for (size_t i = 0; i < chunks; ++i) {
    const uint8_t* entry = message.data() + directory + i * codec::kChunkBytes;
    out[i].count = load<uint32_t>(entry + chunk::kCountAt) & 0x00FFFFFF;
    out[i].support_coder = entry[chunk::kCodersAt] & 15;
    out[i].value_coder = entry[chunk::kCodersAt] >> 4;
    out[i].support = take(message, load<uint32_t>(entry + chunk::kSupportBytesAt), &at);
    out[i].values = take(message, load<uint32_t>(entry + chunk::kValueBytesAt), &at);
  }
  return out;
}

}  // namespace

void settle_base(Parts* parts) {
  parts->has_base = std::any_of(parts->tensors.begin(), parts->tensors.end(),
                                [](const TensorPart& t) { return codec::takes_base(t.support); });
}

void settle_count(TensorPart* tensor) {
  if (tensor->support == codec::SupportMode::kSeed) return;
  tensor->count = 0;
  for (const ChunkPart& c : tensor->chunks) tensor->count += c.count;
}

Parts take_apart(const Case& c) {
  Parts parts;
  const Bytes& m = c.message;
  if (m.size() < codec::kHeaderBytes) return parts;
  const uint8_t* h = m.data();
  parts.major = load<uint16_t>(h + header::kMajorAt);
  parts.minor = load<uint16_t>(h + header::kMinorAt);
  parts.flags = load<uint32_t>(h + header::kFlagsAt);
  parts.round = load<uint32_t>(h + header::kRoundAt);
  parts.profile = load<uint32_t>(h + header::kProfileAt);
  parts.reserved = load<uint32_t>(h + header::kReservedAt);
  parts.schema = load<uint64_t>(h + header::kSchemaAt);
  parts.has_base = load<uint64_t>(h + header::kBaseAt) != 0;
  const size_t room = m.size() - codec::kHeaderBytes;
  const size_t tensors = std::min<size_t>(
      {load<uint32_t>(h + header::kTensorsAt), room / codec::kDescriptorBytes, 2 * kMaxTensors});
  const size_t directory = codec::kHeaderBytes + tensors * codec::kDescriptorBytes;
  const size_t chunks =
      std::min<size_t>({load<uint32_t>(h + header::kChunksAt),
                        (m.size() - directory) / codec::kChunkBytes, kMostChunks});
  std::vector<ChunkPart> bodies = load_chunks(m, directory, chunks);
  size_t next = 0;
  for (size_t i = 0; i < tensors; ++i) {
    TensorPart t = load_tensor(h + codec::kHeaderBytes + i * codec::kDescriptorBytes);
    uint64_t mine = t.ordinal < c.tensors.size() && t.span != 0
                        ? codec::chunks_of(t.support, c.tensors[t.ordinal].spec.numel, t.span)
                        : 0;
    for (; mine != 0 && next < chunks; --mine) t.chunks.push_back(std::move(bodies[next++]));
    parts.tensors.push_back(std::move(t));
  }
  return parts;
}

Bytes put_together(const Parts& parts) {
  size_t chunks = 0;
  for (const TensorPart& t : parts.tensors) chunks += t.chunks.size();
  Bytes out(codec::kHeaderBytes + parts.tensors.size() * codec::kDescriptorBytes +
            chunks * codec::kChunkBytes);
  size_t at = codec::kHeaderBytes;
  for (const TensorPart& t : parts.tensors) {
    store_tensor(t, out.data() + at);
    at += codec::kDescriptorBytes;
  }
  for (const TensorPart& t : parts.tensors) {
    for (const ChunkPart& c : t.chunks) {
      store_chunk(c, out.data() + at);
      at += codec::kChunkBytes;
      out.insert(out.end(), c.support.begin(), c.support.end());
      out.insert(out.end(), c.values.begin(), c.values.end());
    }
  }
  uint8_t* h = out.data();
  std::copy_n(codec::kMagic, sizeof codec::kMagic, h);
  store(h + header::kMajorAt, parts.major);
  store(h + header::kMinorAt, parts.minor);
  store(h + header::kFlagsAt, parts.flags);
  store(h + header::kTotalBytesAt, static_cast<uint64_t>(out.size()));
  store(h + header::kSchemaAt, parts.schema);
  store(h + header::kBaseAt, parts.has_base ? kBaseFingerprint : 0);
  store(h + header::kRoundAt, parts.round);
  store(h + header::kTensorsAt, static_cast<uint32_t>(parts.tensors.size()));
  store(h + header::kChunksAt, static_cast<uint32_t>(chunks));
  store(h + header::kProfileAt, parts.profile);
  store(h + header::kReservedAt, parts.reserved);
  seal(&out);
  return out;
}

void seal(Bytes* message) {
  if (message->size() < codec::kHeaderBytes) return;
  uint8_t* h = message->data();
  const uint64_t directory = codec::kHeaderBytes + uint64_t{codec::kDescriptorBytes} *
                                                       load<uint32_t>(h + header::kTensorsAt);
  const uint64_t chunks = load<uint32_t>(h + header::kChunksAt);
  const uint64_t tables = directory + codec::kChunkBytes * chunks;
  if (tables > message->size()) return;
  uint64_t at = tables;
  for (uint64_t i = 0; i < chunks; ++i) {
    uint8_t* entry = h + directory + i * codec::kChunkBytes;
    const uint64_t bytes = uint64_t{load<uint32_t>(entry + chunk::kSupportBytesAt)} +
                           load<uint32_t>(entry + chunk::kValueBytesAt);
    if (bytes > message->size() - at) break;
    store(entry + chunk::kChecksumAt, codec::crc32c(h + at, bytes));
    at += bytes;
  }
  store(h + header::kChecksumAt, uint32_t{0});
  store(h + header::kChecksumAt, codec::crc32c(h, tables));
}

}  // namespace sparsefl::fuzz
