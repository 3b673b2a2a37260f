#include "allocation.h"

// Of the sanitizers' common interface; null in programs without them.
extern "C" {
int __sanitizer_install_malloc_and_free_hooks(void (*malloc_hook)(const volatile void*, size_t),
                                              void (*free_hook)(const volatile void*))
    __attribute__((weak));
size_t __sanitizer_get_allocated_size(const volatile void* memory) __attribute__((weak));
}

namespace sparsefl::fuzz {
namespace {

// Memory from before a watch is freed within it too, so what is held may fall below zero.
ptrdiff_t held = 0, peak = 0;

void count_malloc(const volatile void*, size_t bytes) {
  held += static_cast<ptrdiff_t>(bytes);
  if (held > peak) peak = held;
}

void count_free(const volatile void* memory) {
  if (memory != nullptr) held -= static_cast<ptrdiff_t>(__sanitizer_get_allocated_size(memory));
}

}  // namespace

void watch_allocation() {
  static const bool installed =
      __sanitizer_install_malloc_and_free_hooks != nullptr &&
      __sanitizer_install_malloc_and_free_hooks(count_malloc, count_free) != 0;
  static_cast<void>(installed);
  held = peak = 0;
}

size_t peak_allocation() { return static_cast<size_t>(peak); }

}  // namespace sparsefl::fuzz
