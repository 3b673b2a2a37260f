// The pool that lends the operators' large results their memory, and what may be asked of it.

#include <pthread.h>
#include <torch/csrc/stable/library.h>

#include "bindings/memory.h"

#if defined(__linux__)
#include <sys/resource.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/memory_pool.h"

namespace sparsefl {
namespace {

// How SPARSEFL_MEMORY_POOL asks for it: off, on, or on with every block filled with NaN.
enum class Mode { kOff, kOn, kPoison };

Mode asked_mode() {
  const char* asked = std::getenv("SPARSEFL_MEMORY_POOL");
  const std::string mode = asked == nullptr || *asked == '\0' ? "1" : asked;
  if (mode == "0") return Mode::kOff;
  if (mode == "1") return Mode::kOn;
  if (mode == "poison") return Mode::kPoison;
  throw std::runtime_error("SPARSEFL_MEMORY_POOL=" + mode + ": expected 0, 1 or poison");
}

Mode mode() {
  static const Mode chosen = asked_mode();
  return chosen;
}

// Addresses for all the memory that there is, or a quarter of those that the process may have.
int64_t reserve_bytes() {
  if (mode() == Mode::kOff) return 0;
#if defined(__linux__)
  const int64_t memory = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return memory;
  return std::min(memory, static_cast<int64_t>(limit.rlim_cur / 4));
#else
  return 0;
#endif
}

// It is never destroyed: tensors may outlive what a process destroys at its end.
MemoryPool& pool() {
  static MemoryPool& shared = []() -> MemoryPool& {
    auto* made = new MemoryPool(reserve_bytes());
    pthread_atfork([] { pool().before_fork(); }, [] { pool().after_fork(); },
                   [] { pool().after_fork(); });
    return *made;
  }();
  return shared;
}

void take_back(void* memory, void*) { pool().take_back(memory); }

// Lent, kept, the most lent at once, fresh and reserved bytes.
std::vector<int64_t> memory_pool_counts() {
  const MemoryPool::Counts counts = pool().counts();
  return {counts.lent_bytes, counts.kept_bytes, counts.peak_bytes, counts.fresh_bytes,
          counts.reserved_bytes};
}

void memory_pool_release() { pool().release(); }

void memory_pool_forget_peak() { pool().forget_peak(); }

STABLE_TORCH_LIBRARY_IMPL(sparsefl, CompositeExplicitAutograd, m) {
  m.impl("memory_pool_counts", TORCH_BOX(&memory_pool_counts));
  m.impl("memory_pool_release", TORCH_BOX(&memory_pool_release));
  m.impl("memory_pool_forget_peak", TORCH_BOX(&memory_pool_forget_peak));
}

}  // namespace

bool make_pooled(int64_t dim, const int64_t* size, const int64_t* strides, int64_t bytes,
                 int32_t type, int32_t device_index, AtenTensorHandle* made) {
  void* memory = mode() == Mode::kOff ? nullptr : pool().lend(bytes);
  if (memory == nullptr) return false;
  if (mode() == Mode::kPoison) std::memset(memory, 0xff, bytes);
  const AOTITorchError error = torch_from_blob(
      memory, dim, size, strides, 0, type, aoti_torch_device_type_cpu(), device_index, made,
      aoti_torch_layout_strided(), nullptr, 0, take_back, nullptr);
  if (error != AOTI_TORCH_SUCCESS) pool().take_back(memory);
  return error == AOTI_TORCH_SUCCESS;
}

}  // namespace sparsefl
