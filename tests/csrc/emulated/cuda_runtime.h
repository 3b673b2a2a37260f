// What the kernels of csrc/cuda use of CUDA, on the host: every thread of a thread block is a
// fiber, and one that waits for others hands over to the next. Slow, but each index, each exchange
// between lanes and each access to memory is the kernels' own, and sanitizers see them.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(threads)
// Thread blocks run one after another.
#define __shared__ static

typedef struct CUstream_st* cudaStream_t;
enum cudaError_t : int { cudaSuccess = 0 };

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

inline dim3 threadIdx, blockIdx, gridDim;

namespace emulation {

constexpr size_t kStackBytes = 64 << 10;

// Where to go on. swapcontext asks the system for the signals that are blocked, half of the time of
// all; but a sanitizer follows it alone.
struct Place {
  ucontext_t context;
  jmp_buf jump;
  bool jumps = false;
};

inline void hand_over(Place* from, Place* to) {
#ifndef __SANITIZE_ADDRESS__
  if (_setjmp(from->jump) != 0) return;
  from->jumps = true;
  if (to->jumps) _longjmp(to->jump, 1);
#endif
  swapcontext(&from->context, &to->context);
}

struct Fiber {
  Place place;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  bool done;
};

// Threads that wait for each other: a warp, or a thread block.
struct Group {
  int members, arrived = 0;
  unsigned generation = 0;
  // Of this generation and of the last one, which slow members still read.
  uint64_t values[2][32] = {};
};

inline std::vector<Fiber> fibers;
inline std::vector<Group> warps;
inline Group thread_block;
inline Place scheduler;
inline unsigned current;
inline const std::function<void()>* body;

inline void enter() {
  (*body)();
  fibers[current].done = true;
  hand_over(&fibers[current].place, &scheduler);
}

inline void yield() { hand_over(&fibers[current].place, &scheduler); }

// Waits until all of a group are here. Returns the generation in which they met.
inline unsigned meet(Group* group) {
  const unsigned met = group->generation;
  if (++group->arrived == group->members) {
    group->arrived = 0;
    ++group->generation;
  } else {
    while (group->generation == met) yield();
  }
  return met;
}

// Every lane's value, once all lanes of the warp have given theirs.
inline const uint64_t* exchange(uint64_t value) {
  Group* warp = &warps[current / 32];
  warp->values[warp->generation % 2][current % 32] = value;
  return warp->values[meet(warp) % 2];
}

inline void run_thread_block(unsigned threads, const std::function<void()>& kernel) {
  body = &kernel;
  if (fibers.size() < threads) fibers = std::vector<Fiber>(threads);
  warps.assign(threads / 32, Group{.members = 32});
  thread_block = Group{.members = static_cast<int>(threads)};
  for (unsigned t = 0; t < threads; ++t) {
    Fiber& fiber = fibers[t];
    fiber.done = false;
    ucontext_t* context = &fiber.place.context;
    fiber.place.jumps = false;
    getcontext(context);
    context->uc_stack.ss_sp = fiber.stack.get();
    context->uc_stack.ss_size = kStackBytes;
    context->uc_link = nullptr;
    makecontext(context, enter, 0);
  }
  for (unsigned left = threads, idle = 0; left > 0;) {
    const unsigned before = left;
    // From the last thread on, so that what relies on an order of threads is seen.
    for (unsigned t = threads; t-- > 0;) {
      if (fibers[t].done) continue;
      current = t;
      threadIdx = dim3(t);
      hand_over(&scheduler, &fibers[t].place);
      if (fibers[t].done) --left;
    }
    idle = left == before ? idle + 1 : 0;
    if (idle > 1'000'000) std::fprintf(stderr, "threads wait for ever\n"), std::abort();
  }
}

}  // namespace emulation

template <class... Parameters, class... Arguments>
void emulate(void (*kernel)(Parameters...), dim3 grid, dim3 threads, cudaStream_t,
             Arguments... arguments) {
  gridDim = grid;
  for (unsigned y = 0; y < grid.y; ++y) {
    for (unsigned x = grid.x; x-- > 0;) {
      blockIdx = dim3(x, y);
      emulation::run_thread_block(threads.x, [&] { kernel(arguments...); });
    }
  }
}

inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

inline void __syncthreads() { emulation::meet(&emulation::thread_block); }

template <class T>
T __shfl_sync(uint32_t, T value, int lane) {
  uint64_t word = 0;
  std::memcpy(&word, &value, sizeof(value));
  const uint64_t* all = emulation::exchange(word);
  std::memcpy(&value, &all[lane & 31], sizeof(value));
  return value;
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int other) {
  return __shfl_sync(mask, value, static_cast<int>(threadIdx.x % 32) ^ other);
}
template <class T>
T __shfl_up_sync(uint32_t mask, T value, int distance) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  return __shfl_sync(mask, value, lane >= distance ? lane - distance : lane);
}
inline uint32_t __ballot_sync(uint32_t, bool set) {
  const uint64_t* all = emulation::exchange(set ? 1 : 0);
  uint32_t word = 0;
  for (int lane = 0; lane < 32; ++lane) word |= static_cast<uint32_t>(all[lane]) << lane;
  return word;
}
inline unsigned __reduce_add_sync(uint32_t, unsigned value) {
  const uint64_t* all = emulation::exchange(value);
  unsigned sum = 0;
  for (int lane = 0; lane < 32; ++lane) sum += static_cast<unsigned>(all[lane]);
  return sum;
}

template <class T>
void aligned(const T* address) {
  if (reinterpret_cast<uintptr_t>(address) % sizeof(T) != 0) {
    std::fprintf(stderr, "an access is not aligned to %zu bytes\n", sizeof(T)), std::abort();
  }
}
template <class T>
T __ldcs(const T* from) {
  return aligned(from), *from;
}
template <class T>
T __ldg(const T* from) {
  return aligned(from), *from;
}
template <class T>
void __stcs(T* to, T value) {
  aligned(to), *to = value;
}
template <class T>
T atomicAdd(T* to, T value) {
  const T old = *to;
  *to = old + value;
  return old;
}
inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
using std::max;
