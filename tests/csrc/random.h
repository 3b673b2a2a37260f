// What the programs of the codec draw their cases from, and the memory that these lie in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace sparsefl {

// Knuth's MMIX generator: the same numbers on every machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint32_t next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state_ >> 32);
  }
  uint32_t below(uint64_t n) { return static_cast<uint32_t>(next() % n); }

 private:
  uint64_t state_;
};

// Of exactly its size and on the heap, so that an address sanitizer sees one byte too far.
struct Buffer {
  explicit Buffer(size_t size) : bytes(new uint8_t[size]()), size(size) {}
  std::unique_ptr<uint8_t[]> bytes;
  size_t size;
};

}  // namespace sparsefl
