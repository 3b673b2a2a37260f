// top_k of packing.h: the k-th largest magnitude digit by digit, by histograms. The first digit's
// and a pass that marks what has it or a higher one read all elements; from then on only marked
// ones are read. Histograms are of integers, so that their sums do not depend on the order of
// additions.
#include "cuda/magnitudes.h"
#include "cuda/packing.h"
#include "cuda/scan.cuh"
#include "cuda/warp.cuh"

namespace sparsefl {
namespace {

// Histograms of a thread block, one for two warps, as equal digits wait for each other.
constexpr int kCopies = 4;
// Thread blocks that histograms are made by: what an H200 runs at a time, and few enough for their
// sums to cost little.
constexpr unsigned kHistogramGrid = 132 * 4;

// In global memory; zero at the start.
struct Scratch {
  Search search;
  unsigned long long bins[kBins];
};

// A histogram of digits in shared memory, without digit 0: of many zeros each would wait for the
// others, and it is what the others leave.
class Histogram {
 public:
  __device__ __forceinline__ Histogram() {
    for (int i = static_cast<int>(threadIdx.x); i < kCopies * kBins; i += kThreads) all()[i] = 0;
    __syncthreads();
  }
  __device__ __forceinline__ void count(uint32_t digit) {
    const int copy = static_cast<int>(threadIdx.x) / kWarpThreads % kCopies;
    if (digit != 0) atomicAdd(&all()[copy * kBins + digit], 1u);
  }
  // Adds it to the one in global memory. All threads take part.
  __device__ __forceinline__ void add_to(unsigned long long* bins) {
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < kBins; i += kThreads) {
      unsigned long long sum = 0;
#pragma unroll
      for (int c = 0; c < kCopies; ++c) sum += all()[c * kBins + i];
      if (sum != 0) atomicAdd(&bins[i], sum);
    }
  }

 private:
  static __device__ __forceinline__ unsigned* all() {
    __shared__ unsigned counts[kCopies * kBins];
    return counts;
  }
};

__device__ __forceinline__ int64_t warps_of_grid() { return gridDim.x * int64_t{kWarps}; }

__global__ void __launch_bounds__(kThreads)
    histogram_kernel(const float* x, Arena arena, int64_t k, Scratch* scratch, int32_t* found_nan) {
  Histogram histogram;
  uint32_t largest = 0;
  for (int64_t index = warp_of_grid(); index < arena.blocks; index += warps_of_grid()) {
    test_block<false>(x, block_at(arena, index), [&](uint32_t element) {
      const uint32_t key = magnitude_key(element);
      largest = max(largest, key);
      histogram.count(digit_of(key, 0));
      return false;
    });
  }
  histogram.add_to(scratch->bins);
  if (largest > kInfinity) *found_nan = 1;
  if (blockIdx.x == 0 && threadIdx.x == 0) scratch->search.wanted = static_cast<uint64_t>(k);
}

// One thread block finds the digit of the k-th largest and clears the histogram for the next.
__global__ void __launch_bounds__(kThreads) pick_kernel(int digit, Scratch* scratch) {
  constexpr int kBinsEach = kBins / kThreads;
  const int highest = kBins - 1 - static_cast<int>(threadIdx.x) * kBinsEach;
  const Search search = scratch->search;
  int64_t own[kBinsEach], sum = 0;
#pragma unroll
  for (int i = 0; i < kBinsEach; ++i) {
    own[i] = static_cast<int64_t>(scratch->bins[highest - i]);
    scratch->bins[highest - i] = 0;
    sum += own[i];
  }
  // Also lets all threads read the search before one writes it.
  const Sums sums = sum_in_thread_block(sum);
  const auto wanted = static_cast<int64_t>(search.wanted);
  int64_t above = sums.before;
  for (int i = 0; i < kBinsEach; ++i) {
    if (above < wanted && wanted <= above + own[i]) {
      scratch->search = narrowed(search, digit, highest - i, static_cast<uint64_t>(above));
    }
    above += own[i];
  }
  if (threadIdx.x == 0 && sums.total < wanted) {
    scratch->search = narrowed(search, digit, 0, static_cast<uint64_t>(sums.total));
  }
}

// Marks the elements whose first digit is the k-th largest's or higher, and counts the second
// digits of those that have it.
__global__ void __launch_bounds__(kThreads)
    mark_kernel(const float* x, Arena arena, Scratch* scratch, uint32_t* bits) {
  Histogram histogram;
  const Search search = scratch->search;
  for (int64_t index = warp_of_grid(); index < arena.blocks; index += warps_of_grid()) {
    const uint32_t word = test_block<false>(x, block_at(arena, index), [&](uint32_t element) {
      const uint32_t key = magnitude_key(element);
      if (has_prefix(key, 1, search)) histogram.count(digit_of(key, 1));
      return key >= search.prefix;
    });
    bits[index * kBlockWords + lane_of_thread()] = word;
  }
  histogram.add_to(scratch->bins);
}

// The keys of a block's marked elements: take(key, word, whether this lane's is marked).
template <class Take>
__device__ __forceinline__ void walk_keys(const float* x, const Block& block, uint32_t word,
                                          Take take) {
  const int lane = lane_of_thread();
  const auto* first = reinterpret_cast<const uint32_t*>(x) + block.element + lane;
  walk_block<uint32_t>(
      word, [&](int k) { return __ldg(first + 32 * k); },
      [&](int k, uint32_t element, uint32_t marked) {
        take(k, element, (marked >> lane & 1) != 0);
      });
}

// Counts the third digits of what has the first two.
__global__ void __launch_bounds__(kThreads)
    refine_kernel(const float* x, Arena arena, const uint32_t* bits, Scratch* scratch) {
  Histogram histogram;
  const Search search = scratch->search;
  for (int64_t index = warp_of_grid(); index < arena.blocks; index += warps_of_grid()) {
    const Block block = block_at(arena, index);
    walk_keys(x, block, word_of_block(bits, index, block), [&](int, uint32_t element, bool marked) {
      const uint32_t key = magnitude_key(element);
      if (marked && has_prefix(key, 2, search)) histogram.count(digit_of(key, 2));
    });
  }
  histogram.add_to(scratch->bins);
}

// Of each block how many keys are above the k-th largest, in the first row, and equal to it, in the
// second.
__global__ void __launch_bounds__(kThreads)
    count_kernel(const float* x, Arena arena, const uint32_t* bits, const Scratch* scratch,
                 int64_t pitch, int64_t* counts) {
  const int64_t index = warp_of_grid();
  if (index >= arena.blocks) return;
  const uint32_t threshold = scratch->search.prefix;
  const Block block = block_at(arena, index);
  int above = 0, tied = 0;
  walk_keys(x, block, word_of_block(bits, index, block), [&](int, uint32_t element, bool marked) {
    const uint32_t key = magnitude_key(element);
    above += count_bits(__ballot_sync(kAllLanes, marked && key > threshold));
    tied += count_bits(__ballot_sync(kAllLanes, marked && key == threshold));
  });
  if (lane_of_thread() == 0) counts[index] = above, counts[pitch + index] = tied;
}

// Takes the marks off what is not kept, and writes plan and values.
__global__ void __launch_bounds__(kThreads)
    keep_kernel(const float* x, Arena arena, int64_t k, const Scratch* scratch, int64_t pitch,
                const int64_t* before, uint32_t* bits, int64_t* prefix, float* values) {
  const int64_t index = warp_of_grid();
  if (index >= arena.blocks) return;
  const Search search = scratch->search;
  const Block block = block_at(arena, index);
  const int lane = lane_of_thread();
  auto seen = static_cast<uint64_t>(before[pitch + index]);
  auto rank = before[index] + static_cast<int64_t>(kept_ties(seen, search));
  if (lane == 0) prefix[index] = rank;
  if (lane == 0 && index == arena.blocks - 1) prefix[arena.blocks] = k;
  uint32_t kept_word = 0;
  const uint32_t marks = word_of_block(bits, index, block);
  walk_keys(x, block, marks, [&](int word, uint32_t element, bool marked) {
    const uint32_t key = magnitude_key(element);
    const uint32_t ties = __ballot_sync(kAllLanes, marked && key == search.prefix);
    const bool keeps = marked && is_kept(key, search, seen + count_bits(ties & bits_below(lane)));
    const uint32_t kept = __ballot_sync(kAllLanes, keeps);
    const int64_t own = rank + count_bits(kept & bits_below(lane));
    if (keeps && own < k) values[own] = __uint_as_float(element);
    if (lane == word) kept_word = kept;
    seen += count_bits(ties);
    rank += count_bits(kept);
  });
  bits[index * kBlockWords + lane] = kept_word;
}

int keep_none(const Arena& arena, uint32_t* bits, int64_t* prefix, cudaStream_t stream) {
  const auto blocks = static_cast<size_t>(arena.blocks);
  const cudaError_t cleared = cudaMemsetAsync(prefix, 0, (blocks + 1) * sizeof(*prefix), stream);
  if (cleared != cudaSuccess) return cleared;
  return cudaMemsetAsync(bits, 0, blocks * kBlockWords * sizeof(*bits), stream);
}

}  // namespace

// The search and its histogram, the counts of blocks in two rows, the sums of their chunks.
size_t top_k_scratch(int64_t blocks) {
  const auto numbers = static_cast<size_t>(2 * (blocks + 1) + 2 * chunks_of(blocks));
  return sizeof(Scratch) + numbers * sizeof(int64_t);
}

int top_k(const float* x, const Arena& arena, int64_t k, uint32_t* bits, int64_t* prefix,
          float* values, int32_t* found_nan, void* memory, cudaStream_t stream) {
  if (arena.blocks == 0) return cudaMemsetAsync(prefix, 0, sizeof(*prefix), stream);
  auto* scratch = static_cast<Scratch*>(memory);
  auto* counts = reinterpret_cast<int64_t*>(scratch + 1);
  const int64_t pitch = arena.blocks + 1;
  const cudaError_t cleared = cudaMemsetAsync(scratch, 0, sizeof(*scratch), stream);
  if (cleared != cudaSuccess) return cleared;
  const unsigned all = grid_of(arena.blocks);
  const unsigned some = all < kHistogramGrid ? all : kHistogramGrid;
  launch(histogram_kernel, some, stream, x, arena, k, scratch, found_nan);
  if (k == 0) return keep_none(arena, bits, prefix, stream);
  launch(pick_kernel, 1, stream, 0, scratch);
  launch(mark_kernel, some, stream, x, arena, scratch, bits);
  launch(pick_kernel, 1, stream, 1, scratch);
  launch(refine_kernel, some, stream, x, arena, bits, scratch);
  launch(pick_kernel, 1, stream, 2, scratch);
  launch(count_kernel, all, stream, x, arena, bits, scratch, pitch, counts);
  scan_counts(counts, arena.blocks, pitch, 2, counts + 2 * pitch, stream);
  launch(keep_kernel, all, stream, x, arena, k, scratch, pitch, counts, bits, prefix, values);
  return cudaGetLastError();
}

}  // namespace sparsefl
