// What the programs of the norms compare, and with what.
#pragma once

#include <cstdint>
#include <memory>

#include "expect.h"

namespace sparsefl {

// Of exactly its size, so that the address sanitizer sees a lane too far.
template <class T>
std::unique_ptr<T[]> numbers(int64_t n, double offset) {
  static uint64_t state = 1;
  std::unique_ptr<T[]> made(new T[n]);
  for (int64_t i = 0; i < n; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    made[i] = static_cast<T>(static_cast<double>(state >> 40) / (1 << 23) - 1 + offset);
  }
  return made;
}

}  // namespace sparsefl
