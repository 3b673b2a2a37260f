// Adds messages to sums in memory that the caller owns, without unpacking them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "codec/chunk.h"
#include "codec/format.h"
#include "codec/sum_kernels.h"

namespace sparsefl::codec {

enum class SumType : uint8_t { kFloat32 = 0, kFloat64 = 1, kInt32 = 2 };

// Where the values of one descriptor are added.
struct Addend {
  // As of Target.
  const uint8_t* base = nullptr;
  const int8_t* base_signs = nullptr;
  uint64_t base_count = 0;
  SumType type = SumType::kFloat32;
  // One sum a position of the tensor; where `ranks`, one a value, of mode kShared alone. Null where
  // values are checked and not added.
  void* sums = nullptr;
  // The weights of all values added at each, as many and of the same type; or null.
  void* weights = nullptr;
  bool ranks = false;
};

// Decoded chunks that are kept from the checks to the sums, where they stay in a cache of usual
// size; the others are decoded twice, which costs less than memory does.
inline constexpr size_t kHeldBytes = size_t{16} << 20;

// Memory between messages.
class Accumulation {
 public:
  explicit Accumulation(size_t held_bytes = kHeldBytes, Isa isa = sparsefl::isa())
      : held_bytes_(held_bytes), kernels_(sum_kernels(isa)) {}

  // Checks and decodes all chunks of a parsed message, and then adds weight times their values:
  // sums of kInt32 take weight times the sign alone, the others weight times what the tensor holds.
  // Where the status is not ok nothing was added. `addends` has one entry a descriptor, those
  // with sums of a mode with values, and of signs for kInt32. Neither status nor sums depend on the
  // number of threads, at least 1: chunks have positions of their own.
  Status add(std::span<const uint8_t> data, std::span<const TensorSpec> schema,
             const Message& message, std::span<const Addend> addends, double weight,
             size_t threads);

 private:
  // Memory that is not cleared when it grows, with room for what kernels may read past its end.
  struct Bytes {
    std::unique_ptr<uint8_t[]> data;
    size_t size = 0;
    uint8_t* room(size_t bytes);
  };
  struct Memory : ChunkMemory {
    Bytes content;
  };

  static Reason decode(const Body& body, const Addend& addend, ChunkMemory* memory,
                       uint8_t* content);

  size_t held_bytes_;
  const AllSumKernels& kernels_;
  Bytes held_;
  std::vector<Memory> memory_;
};

}  // namespace sparsefl::codec
