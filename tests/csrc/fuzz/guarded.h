// Memory that notices who writes beside it.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "case.h"

#if defined(__SANITIZE_ADDRESS__)
#define SPARSEFL_FUZZ_POISON 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SPARSEFL_FUZZ_POISON 1
#endif
#endif
#ifdef SPARSEFL_FUZZ_POISON
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#endif

namespace sparsefl::fuzz {

inline void require(bool holds, const char* otherwise) {
  if (holds) return;
  std::fprintf(stderr, "fuzz: %s\n", otherwise);
  std::abort();
}

// Memory between guards, which nobody may touch; address sanitizers see who does at once.
class Guarded {
 public:
  Guarded(size_t size, uint8_t fill) : memory_(new uint8_t[size + 2 * kGuardBytes]), size_(size) {
    std::memset(memory_.get(), kGuard, size + 2 * kGuardBytes);
    std::memset(data(), fill, size);
    ASAN_POISON_MEMORY_REGION(memory_.get(), kGuardBytes);
    ASAN_POISON_MEMORY_REGION(data() + size_, kGuardBytes);
  }
  explicit Guarded(const Bytes& of) : Guarded(of.size(), 0) {
    if (!of.empty()) std::memcpy(data(), of.data(), of.size());
  }
  Guarded(Guarded&&) = default;
  ~Guarded() {
    if (memory_ != nullptr) require(is_whole(), "memory outside a buffer was written");
  }

  uint8_t* data() const { return memory_.get() + kGuardBytes; }
  size_t size() const { return size_; }
  bool operator==(const Guarded& other) const {
    return size_ == other.size_ && std::memcmp(data(), other.data(), size_) == 0;
  }

 private:
  static constexpr size_t kGuardBytes = 64;
  static constexpr uint8_t kGuard = 0xA5;

  bool is_whole() const {
    ASAN_UNPOISON_MEMORY_REGION(memory_.get(), kGuardBytes);
    ASAN_UNPOISON_MEMORY_REGION(data() + size_, kGuardBytes);
    for (size_t i = 0; i < kGuardBytes; ++i)
      if (memory_[i] != kGuard || data()[size_ + i] != kGuard) return false;
    return true;
  }

  std::unique_ptr<uint8_t[]> memory_;
  size_t size_;
};

}  // namespace sparsefl::fuzz
