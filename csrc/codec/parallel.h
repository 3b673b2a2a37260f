// Turns of a loop on several threads, whose failures are those of the loop on one.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "codec/format.h"

namespace sparsefl::codec {

// The first turn that failed; `turn` is their number where none did.
struct Failure {
  size_t turn;
  Reason reason = Reason::kNone;
};

// Calls take(turn, thread) -> Reason for turns [0, n) on at most `threads` threads, `thread` below
// that number. Turns after one that failed may be left out, those before it are not: what is
// returned does not depend on the number of threads. Rethrows the first exception.
template <class Take>
Failure for_each_turn(size_t n, size_t threads, Take take) {
  std::atomic<size_t> next{0}, end{n};
  std::mutex mutex;
  Failure first{n};
  std::exception_ptr thrown;
  const auto stop_at = [&](size_t turn) {
    size_t last = end.load();
    while (turn < last && !end.compare_exchange_weak(last, turn)) {
    }
  };
  const auto work = [&](size_t thread) {
    for (size_t turn = next++; turn < end.load(); turn = next++) {
      Reason reason = Reason::kNone;
      try {
        reason = take(turn, thread);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!thrown) thrown = std::current_exception();
        return stop_at(0);
      }
      if (reason == Reason::kNone) continue;
      const std::lock_guard lock(mutex);
      if (turn < first.turn) first = {turn, reason};
      stop_at(turn);
    }
  };
  std::vector<std::thread> others;
  try {
    for (size_t i = 1; i < std::min(threads, n); ++i) others.emplace_back(work, i);
  } catch (const std::system_error&) {
    // The threads that there are take all turns.
  }
  work(0);
  for (std::thread& other : others) other.join();
  if (thrown) std::rethrow_exception(thrown);
  return first;
}

}  // namespace sparsefl::codec
