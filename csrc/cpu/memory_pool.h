// Memory for large results that is kept when it is freed, and lent again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace sparsefl {

// Lends stretches of one range of addresses. A training step frees its activations and asks for the
// same sizes again: the C library's allocator either returns them to the system, and each step pays
// for their pages (1 to 5 us for 4 KB on a virtual machine), or keeps them in a heap that small
// allocations cut into pieces too short for the next size. Here freed neighbours become one, and
// all that lies in memory, lent or not, is hardly more than was lent at once of late.
class MemoryPool {
 public:
  struct Counts {
    int64_t lent_bytes;      // now
    int64_t kept_bytes;      // in memory, and not lent
    int64_t peak_bytes;      // the most lent at once since forget_peak
    int64_t fresh_bytes;     // lent that was not in memory, since the start
    int64_t reserved_bytes;  // addresses, of memory or not
  };

  // Reserves so many bytes of addresses, or fewer where the system refuses; none of memory. A pool
  // without addresses lends nothing.
  explicit MemoryPool(int64_t reserve_bytes);
  ~MemoryPool();
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  // Uninitialised memory at a multiple of 64 bytes; null where there is none left.
  void* lend(int64_t bytes);
  // What lend gave; its content is lost.
  void take_back(void* memory);
  // Returns all that is kept to the system.
  void release();
  Counts counts();
  void forget_peak();

  // Around a fork, so that the child does not find the pool as another thread left it.
  void before_fork() { mutex_.lock(); }
  void after_fork() { mutex_.unlock(); }

 private:
  // Of addresses that are not lent; they lie in memory or not.
  struct Piece {
    int64_t size;
    bool resident;
  };
  using Pieces = std::map<char*, Piece>;
  struct Place {
    char* begin;
    int64_t fresh_bytes;  // of it, what does not lie in memory
    int64_t run_bytes;    // of the free addresses that it is cut from
  };

  bool find(int64_t size, Place& best) const;
  void find_in_run(Pieces::const_iterator first, Pieces::const_iterator end, int64_t size,
                   Place& best) const;
  bool make_usable(const char* end);
  void cut(char* begin, int64_t size);
  void insert(char* begin, int64_t size, bool resident);
  void drop(int64_t bytes);
  int64_t most_held() const;

  std::mutex mutex_;
  char *begin_ = nullptr, *usable_ = nullptr, *end_ = nullptr;
  Pieces free_;
  std::unordered_map<void*, int64_t> lent_;
  int64_t lent_bytes_ = 0, kept_bytes_ = 0, fresh_bytes_ = 0, peak_bytes_ = 0;
  // The most lent at once in this window of calls, and in the one before it.
  int64_t window_peak_ = 0, last_window_peak_ = 0, window_calls_ = 0;
};

}  // namespace sparsefl
