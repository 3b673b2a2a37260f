// Shares work out over torch's thread pool.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>

namespace sparsefl {

// Below this a parallel region costs more than it saves (9 us with a passive OpenMP wait policy,
// which is some 0.5 to 1 MFLOP).
constexpr int64_t kSerialFlops = 1'000'000;

// Torch's pool hangs in a forked child of a parent that used it; such a child works serially.
inline bool forked_after_use() {
  static std::atomic<pid_t> user{0};
  pid_t none = 0;
  const pid_t self = getpid();
  return !user.compare_exchange_strong(none, self) && none != self;
}

// The parts into which work of so many flops is to be cut.
inline int64_t thread_parts(int64_t flops) {
  if (flops < kSerialFlops || forked_after_use()) return 1;
  return torch::stable::get_num_threads();
}

// Calls run(part) for every part, each on a thread of its own.
template <class Run>
void for_parts(int64_t parts, const Run& run) {
  if (parts == 1) return run(0);
  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) run(part);
  });
}

// This thread's workspace of at least so many elements, aligned to 64 bytes. It is kept for the
// next call: fresh pages would cost more than many a kernel.
template <class T>
T* workspace(int64_t elements) {
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  thread_local std::unique_ptr<void, Free> memory;
  thread_local int64_t capacity = 0;
  const int64_t bytes = (elements * int64_t{sizeof(T)} + 63) / 64 * 64;
  if (bytes > capacity) {
    memory.reset(std::aligned_alloc(64, bytes));
    capacity = memory == nullptr ? 0 : bytes;
    STD_TORCH_CHECK(memory != nullptr, "out of memory for a workspace of ", bytes, " bytes");
  }
  return static_cast<T*>(memory.get());
}

}  // namespace sparsefl
