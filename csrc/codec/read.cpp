// The chunk bodies of a message that parse() accepted.
#include <algorithm>

#include "codec/bits.h"
#include "codec/chunk.h"
#include "codec/message.h"
#include "codec/parallel.h"

namespace sparsefl::codec {
namespace {

struct Memory : ChunkMemory {
  std::vector<uint8_t> packed;
};

// Checks and decodes one chunk.
Reason read_chunk(const Body& body, const Target& target, Memory* memory) {
  const Descriptor& d = *body.descriptor;
  const uint64_t first = body.chunk->begin / 8;
  if (!is_intact(body)) return Reason::kChunkChecksum;
  const uint8_t* base = target.base == nullptr ? nullptr : target.base + first;
  uint8_t* bits = sends_support(d.support) ? target.bitmap + first : nullptr;
  if (const Reason reason = read_support(body, base, memory, bits); reason != Reason::kNone)
    return reason;
  if (d.value == ValueMode::kNone) return Reason::kNone;
  const BaseSigns base_signs{target.base_signs, target.base_count};
  uint8_t* values = target.values + body.done * memory_item_bytes(d.value, body.dtype);
  if (!is_sign(d.value)) return read_body_values(body, base_signs, memory, values);
  memory->packed.resize((body.span.count + 7) / 8);
  const Reason reason = read_body_values(body, base_signs, memory, memory->packed.data());
  if (reason == Reason::kNone)
    unpack_signs(memory->packed.data(), body.span.count, reinterpret_cast<int8_t*>(values));
  return reason;
}

}  // namespace

Status read(std::span<const uint8_t> data, std::span<const TensorSpec> schema,
            const Message& message, std::span<const Target> targets, size_t threads) {
  const std::vector<Body> bodies = bodies_of(data, schema, message);
  std::vector<Memory> memory(std::max<size_t>(std::min(threads, bodies.size()), 1));
  const Failure failure = for_each_turn(bodies.size(), threads, [&](size_t i, size_t thread) {
    return read_chunk(bodies[i], targets[bodies[i].where], &memory[thread]);
  });
  if (failure.reason == Reason::kNone) return {};
  return Status{failure.reason, static_cast<int64_t>(bodies[failure.turn].where)};
}

}  // namespace sparsefl::codec
