#include "cpu/memory_pool.h"

#include <algorithm>
#include <iterator>
#include <tuple>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace sparsefl {
namespace {

// Stretches start and end at multiples of it: no less than a page of any machine.
constexpr int64_t kGranule = int64_t{64} << 10;
// Addresses are made usable by so many bytes at a time.
constexpr int64_t kUsableStep = int64_t{64} << 20;
// Fewer addresses are not worth having.
constexpr int64_t kLeastReserve = int64_t{256} << 20;
// Calls of lend after which an earlier peak starts to be forgotten: some ten steps of a ResNet-18.
constexpr int64_t kWindow = 1024;

// What is held beyond what was lent at once: a part in so many.
constexpr int64_t kSlack = 16;

int64_t round_up(int64_t bytes, int64_t to) { return (bytes + to - 1) / to * to; }

#if defined(__linux__)
char* reserve(int64_t bytes) {
  void* range = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) return nullptr;
  // Where the system leaves it to programs: a fault for 2 MB, and fewer misses of the TLB.
  madvise(range, bytes, MADV_HUGEPAGE);
  return static_cast<char*>(range);
}
void unreserve(char* begin, int64_t bytes) { munmap(begin, bytes); }
bool allow_access(char* begin, int64_t bytes) {
  return mprotect(begin, bytes, PROT_READ | PROT_WRITE) == 0;
}
void give_to_system(char* begin, int64_t bytes) { madvise(begin, bytes, MADV_DONTNEED); }
#else
char* reserve(int64_t) { return nullptr; }
void unreserve(char*, int64_t) {}
bool allow_access(char*, int64_t) { return false; }
void give_to_system(char*, int64_t) {}
#endif

}  // namespace

MemoryPool::MemoryPool(int64_t reserve_bytes) {
  int64_t size = reserve_bytes / kUsableStep * kUsableStep;
  for (; size >= kLeastReserve; size = size / 2 / kUsableStep * kUsableStep) {
    begin_ = reserve(size);
    if (begin_ != nullptr) break;
  }
  if (begin_ == nullptr) return;
  usable_ = begin_;
  end_ = begin_ + size;
  free_.emplace(begin_, Piece{size, false});
}

MemoryPool::~MemoryPool() {
  if (begin_ != nullptr) unreserve(begin_, end_ - begin_);
}

void* MemoryPool::lend(int64_t bytes) {
  const int64_t size = round_up(std::max<int64_t>(bytes, 1), kGranule);
  const std::lock_guard lock(mutex_);
  Place place{};
  if (!find(size, place) || !make_usable(place.begin + size)) return nullptr;
  cut(place.begin, size);
  lent_.emplace(place.begin, size);
  lent_bytes_ += size;
  kept_bytes_ -= size - place.fresh_bytes;
  fresh_bytes_ += place.fresh_bytes;
  peak_bytes_ = std::max(peak_bytes_, lent_bytes_);
  if (++window_calls_ > kWindow) {
    window_calls_ = 0;
    last_window_peak_ = window_peak_;
    window_peak_ = 0;
  }
  window_peak_ = std::max(window_peak_, lent_bytes_);
  drop(lent_bytes_ + kept_bytes_ - most_held());
  return place.begin;
}

void MemoryPool::take_back(void* memory) {
  const std::lock_guard lock(mutex_);
  const auto found = lent_.find(memory);
  if (found == lent_.end()) return;
  const int64_t size = found->second;
  lent_.erase(found);
  insert(static_cast<char*>(memory), size, true);
  lent_bytes_ -= size;
  kept_bytes_ += size;
  drop(lent_bytes_ + kept_bytes_ - most_held());
}

void MemoryPool::release() {
  const std::lock_guard lock(mutex_);
  drop(kept_bytes_);
}

MemoryPool::Counts MemoryPool::counts() {
  const std::lock_guard lock(mutex_);
  return {lent_bytes_, kept_bytes_, peak_bytes_, fresh_bytes_, end_ - begin_};
}

void MemoryPool::forget_peak() {
  const std::lock_guard lock(mutex_);
  peak_bytes_ = lent_bytes_;
}

// A step's blocks do not fit into each other's places to the last byte.
int64_t MemoryPool::most_held() const {
  const int64_t peak = std::max(window_peak_, last_window_peak_);
  return peak + peak / kSlack;
}

// The place that takes the fewest pages from the system; of those, in the shortest run.
bool MemoryPool::find(int64_t size, Place& best) const {
  best = {nullptr, 0, 0};
  for (auto first = free_.begin(); first != free_.end();) {
    auto end = std::next(first);
    int64_t run_bytes = first->second.size;
    for (; end != free_.end() && end->first == first->first + run_bytes; ++end) {
      run_bytes += end->second.size;
    }
    if (run_bytes >= size) find_in_run(first, end, size, best);
    first = end;
  }
  return best.begin != nullptr;
}

// Tries the start and the end of every piece of a run of neighbours.
void MemoryPool::find_in_run(Pieces::const_iterator first, Pieces::const_iterator end, int64_t size,
                             Place& best) const {
  char* const run_begin = first->first;
  char* const run_end = std::prev(end)->first + std::prev(end)->second.size;
  const int64_t run_bytes = run_end - run_begin;
  const auto consider = [&](char* begin) {
    if (begin < run_begin || begin + size > run_end) return;
    int64_t fresh = size;
    for (auto piece = first; piece != end; ++piece) {
      if (!piece->second.resident) continue;
      const auto from = std::max(begin, piece->first);
      const auto to = std::min(begin + size, piece->first + piece->second.size);
      fresh -= std::max<int64_t>(to - from, 0);
    }
    const Place place{begin, fresh, run_bytes};
    const auto order = [](const Place& p) {
      return std::tuple(p.fresh_bytes, p.run_bytes, p.begin);
    };
    if (best.begin == nullptr || order(place) < order(best)) best = place;
  };
  for (auto piece = first; piece != end; ++piece) {
    consider(piece->first);
    // Unless nothing follows: the addresses that were never used stay whole.
    if (piece->second.resident || piece->first + piece->second.size != end_) {
      consider(piece->first + piece->second.size - size);
    }
  }
}

bool MemoryPool::make_usable(const char* end) {
  if (end <= usable_) return true;
  const int64_t more = std::min<int64_t>(round_up(end - usable_, kUsableStep), end_ - usable_);
  if (!allow_access(usable_, more)) return false;
  usable_ += more;
  return true;
}

// Takes addresses from the free pieces that cover them.
void MemoryPool::cut(char* begin, int64_t size) {
  char* const end = begin + size;
  auto piece = std::prev(free_.upper_bound(begin));
  while (piece != free_.end() && piece->first < end) {
    const auto [at, what] = *piece;
    piece = free_.erase(piece);
    if (at < begin) free_.emplace(at, Piece{begin - at, what.resident});
    if (at + what.size > end) free_.emplace(end, Piece{at + what.size - end, what.resident});
  }
}

// Adds a piece, as one with the neighbours that are of its kind.
void MemoryPool::insert(char* begin, int64_t size, bool resident) {
  auto next = free_.lower_bound(begin);
  if (next != free_.end() && next->first == begin + size && next->second.resident == resident) {
    size += next->second.size;
    next = free_.erase(next);
  }
  if (next != free_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second.size == begin && before->second.resident == resident) {
      before->second.size += size;
      return;
    }
  }
  free_.emplace(begin, Piece{size, resident});
}

// Returns so many of the kept bytes to the system: the ends of the longest pieces.
void MemoryPool::drop(int64_t bytes) {
  while (bytes > 0 && kept_bytes_ > 0) {
    auto longest = free_.end();
    for (auto piece = free_.begin(); piece != free_.end(); ++piece) {
      if (!piece->second.resident) continue;
      if (longest == free_.end() || piece->second.size >= longest->second.size) longest = piece;
    }
    const int64_t size = std::min(longest->second.size, round_up(bytes, kGranule));
    char* const begin = longest->first + longest->second.size - size;
    give_to_system(begin, size);
    cut(begin, size);
    insert(begin, size, false);
    kept_bytes_ -= size;
    bytes -= size;
  }
}

}  // namespace sparsefl
