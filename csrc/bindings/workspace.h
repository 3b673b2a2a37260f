// Memory that a thread keeps from call to call.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

namespace sparsefl {

// Uninitialised memory for a scope, aligned to 64 bytes. The thread lends it out again: a fresh
// page of a virtual machine costs 1 to 5 us, more than many a kernel spends on its 4 KB.
class Workspace {
 public:
  explicit Workspace(int64_t bytes) : buffer_(lend(bytes)) {}
  ~Workspace() {
    if (buffer_.memory != nullptr && buffer_.bytes <= kMostKept) {
      kept().push_back(std::move(buffer_));
    }
  }
  Workspace(Workspace&&) = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  Workspace& operator=(Workspace&&) = delete;

  template <class T>
  T* as() const {
    return static_cast<T*>(buffer_.memory.get());
  }

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  struct Buffer {
    std::unique_ptr<void, Free> memory;
    int64_t bytes;
  };
  // Of a buffer. The pages of larger ones cost little beside what is done with them.
  static constexpr int64_t kMostKept = int64_t{16} << 20;

  static std::vector<Buffer>& kept() {
    thread_local std::vector<Buffer> buffers;
    return buffers;
  }

  // The smallest kept buffer that suffices; else a new one in place of the largest that does not.
  static Buffer lend(int64_t bytes) {
    bytes = (bytes + 63) / 64 * 64;
    if (bytes == 0) return {nullptr, 0};
    std::vector<Buffer>& buffers = kept();
    size_t best = buffers.size();
    for (size_t i = 0; i < buffers.size(); ++i) {
      if (best == buffers.size()) {
        best = i;
        continue;
      }
      const bool fits = buffers[i].bytes >= bytes, best_fits = buffers[best].bytes >= bytes;
      const bool smaller = buffers[i].bytes < buffers[best].bytes;
      if (fits == best_fits ? fits == smaller : fits) best = i;
    }
    Buffer lent{nullptr, 0};
    if (best < buffers.size()) {
      std::swap(buffers[best], buffers.back());
      lent = std::move(buffers.back());
      buffers.pop_back();
    }
    if (lent.bytes < bytes) {
      lent.memory.reset();
      lent = {std::unique_ptr<void, Free>(std::aligned_alloc(64, bytes)), bytes};
      STD_TORCH_CHECK(lent.memory != nullptr, "out of memory for a workspace of ", bytes, " bytes");
    }
    return lent;
  }

  Buffer buffer_;
};

}  // namespace sparsefl
