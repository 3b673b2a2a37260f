// Shares work out over torch's thread pool.
#pragma once

#include <pthread.h>
#include <sys/stat.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>

namespace sparsefl {

// Below this a parallel region costs more than it saves (9 us with a passive OpenMP wait policy,
// which is some 0.5 to 1 MFLOP).
constexpr int64_t kSerialFlops = 1'000'000;
// What an element that streams by costs beside a flop of a kernel that reads its cache.
constexpr int64_t kFlopsAnElement = 8;

// Torch's pool hangs in a forked child of a parent whose pool has threads, whoever started them. A
// parent that had more than one thread when it forked is taken to have such a pool.
class ForkWatch {
 public:
  ForkWatch() { pthread_atfork(before_fork, nullptr, after_fork_in_child); }
  bool pool_hangs() const { return pool_hangs_; }

 private:
  static void before_fork() {
    // The folder's links are its own two and one a thread.
    struct stat tasks;
    threaded_ = stat("/proc/self/task", &tasks) != 0 || tasks.st_nlink != 3;
  }
  static void after_fork_in_child() {
    if (threaded_) pool_hangs_ = true;
  }

  static inline std::atomic<bool> threaded_{false}, pool_hangs_{false};
};

inline const ForkWatch fork_watch;

// The parts into which work of so many flops is to be cut.
inline int64_t thread_parts(int64_t flops) {
  if (flops < kSerialFlops || fork_watch.pool_hangs()) return 1;
  return torch::stable::get_num_threads();
}

// Calls run(part) for every part, each on a thread of its own. Rethrows the first exception, which
// torch would report without its message.
template <class Run>
void for_parts(int64_t parts, const Run& run) {
  if (parts == 1) return run(0);
  std::exception_ptr thrown;
  std::atomic_flag taken;
  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    try {
      for (int64_t part = begin; part < end; ++part) run(part);
    } catch (...) {
      if (!taken.test_and_set()) thrown = std::current_exception();
    }
  });
  if (thrown != nullptr) std::rethrow_exception(thrown);
}

}  // namespace sparsefl
