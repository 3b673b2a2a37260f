// Runs the parts of a kernel's work as the bindings share them out: each on a thread of its own, so
// that the thread sanitizer sees two that touch the same memory.
#pragma once

#include <cstdint>
#include <thread>
#include <vector>

namespace sparsefl {

template <class Run>
void for_parts(int64_t parts, const Run& run) {
  std::vector<std::thread> threads;
  for (int64_t p = 1; p < parts; ++p) threads.emplace_back([&run, p] { run(p); });
  run(0);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace sparsefl
