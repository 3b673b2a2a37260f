#include "codec/top_k.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>

#include "codec/bits.h"
#include "codec/dense_kernels.h"
#include "codec/rank.h"

namespace sparsefl::codec {
namespace {

// Elements sampled: 0.3 ms, and bounds that 2 % of all elements lie between at a density of 0.5.
constexpr size_t kSample = 1 << 15;
// Of them so many are asked for before the first is read: each lies in a page of its own.
constexpr size_t kAtOnce = 32;
// Half the bracket's width, in standard deviations of a sampled rank.
constexpr double kDeviations = 4.0;
// Elements of a step: what it appends is still in the first-level cache when it is read again.
constexpr size_t kStep = 4096;
// Up to this many elements all magnitudes are compared: a sample would be most of them.
constexpr size_t kFew = kSample;

size_t total_of(std::span<const TopKPart> parts) {
  return std::accumulate(parts.begin(), parts.end(), size_t{0},
                         [](size_t sum, const TopKPart& part) { return sum + part.n; });
}

// Magnitudes [low, high) hold the k-th largest, all but surely.
struct Bracket {
  uint32_t low = 0;
  uint32_t high = ~uint32_t{0};
};

// Deviation of the rank that a share has in a sample, in ranks of the sample.
double deviation(double share) {
  return std::sqrt(static_cast<double>(kSample) * share * (1 - share)) + 1;
}

uint32_t key_at(const float* x) {
  uint32_t bits;
  std::memcpy(&bits, x, sizeof(bits));
  return bits & kMagnitudeBits;
}

// Evenly spread places, off the lattice of rows and columns: the golden ratio's multiples.
std::vector<uint32_t> sample(std::span<const TopKPart> parts, size_t n) {
  constexpr uint64_t kGolden = 0x9E3779B97F4A7C15;
  std::vector<uint32_t> keys(kSample);
  const double stride = static_cast<double>(n) / kSample;
  size_t part = 0, first = 0;
  const float* places[kAtOnce];
  for (size_t i = 0; i < kSample; ++i) {
    const double jitter = static_cast<double>(i * kGolden >> 11) * 0x1p-53;
    const auto at =
        std::min(n - 1, static_cast<size_t>((static_cast<double>(i) + jitter) * stride));
    while (at - first >= parts[part].n) first += parts[part++].n;
    const float*& place = places[i % kAtOnce];
    if (i >= kAtOnce) keys[i - kAtOnce] = key_at(place);
    place = parts[part].x + (at - first);
    __builtin_prefetch(place);
  }
  for (size_t i = kSample - kAtOnce; i < kSample; ++i) keys[i] = key_at(places[i % kAtOnce]);
  return keys;
}

uint32_t nth_largest(std::vector<uint32_t>* keys, size_t begin, size_t rank) {
  const auto nth = keys->begin() + static_cast<std::ptrdiff_t>(rank);
  std::nth_element(keys->begin() + static_cast<std::ptrdiff_t>(begin), nth, keys->end(),
                   std::greater<>());
  return *nth;
}

Bracket bracket(std::span<const TopKPart> parts, size_t n, size_t k) {
  const double share = static_cast<double>(k) / static_cast<double>(n);
  const double rank = share * kSample, width = kDeviations * deviation(share);
  Bracket found;
  std::vector<uint32_t> keys = sample(parts, n);
  size_t sorted = 0;
  if (rank > width) {
    sorted = static_cast<size_t>(rank - width);
    found.high = nth_largest(&keys, 0, sorted) + 1;
  }
  if (rank + width < static_cast<double>(kSample)) {
    found.low = nth_largest(&keys, sorted, static_cast<size_t>(rank + width));
  }
  return found;
}

// The rank-th largest of keys within [low, high), rank from 1 on, by one histogram and the bin that
// holds it.
uint32_t select(std::span<const uint32_t> keys, size_t rank, Bracket within) {
  constexpr size_t kBins = 1 << 12;
  int shift = 0;
  while ((within.high - 1 - within.low) >> shift >= kBins) ++shift;
  std::vector<uint32_t> bins(kBins);
  for (uint32_t key : keys) ++bins[(key - within.low) >> shift];
  size_t bin = kBins - 1;
  for (; rank > bins[bin]; --bin) rank -= bins[bin];
  std::vector<uint32_t> left;
  left.reserve(bins[bin]);
  for (uint32_t key : keys) {
    if ((key - within.low) >> shift == bin) left.push_back(key);
  }
  return nth_largest(&left, 0, rank - 1);
}

// What is kept: magnitudes above the threshold, and the first `ties` that are equal to it.
struct Threshold {
  uint32_t key;
  size_t ties;
};

// The keys that a pass over the kept elements found below the bracket's upper bound.
struct Kept {
  size_t count = 0;
  uint32_t largest = 0;
  std::unique_ptr<uint32_t[]> keys;
  std::span<const uint32_t> between;
};

// One pass: what reaches the lower bound goes to `values` and the bitmaps. False where the buffers
// are too small.
bool keep(std::span<TopKPart> parts, Bracket bounds, size_t capacity, const DenseKernels& kernels,
          float* values, size_t most_between, Kept* kept) {
  size_t between = 0;
  kept->keys = std::make_unique_for_overwrite<uint32_t[]>(most_between + kStep + kAppendSlack);
  for (TopKPart& part : parts) {
    part.count = 0;
    for (size_t i = 0; i < part.n; i += kStep) {
      const size_t step = std::min(kStep, part.n - i);
      if (kept->count + step + kAppendSlack > capacity || between > most_between) return false;
      float* to = values + kept->count;
      const size_t more = kernels.keep(part.x + i, step, bounds.low, part.bits + i / 8, to);
      between += kernels.collect(to, more, bounds.high, kept->keys.get() + between, &kept->largest);
      part.count += more, kept->count += more;
    }
  }
  kept->between = {kept->keys.get(), between};
  return true;
}

// Drops what the threshold does not reach from what was kept.
void drop(std::span<TopKPart> parts, Threshold threshold, const DenseKernels& kernels, Isa isa,
          float* values) {
  std::vector<uint8_t> ranks;
  const float* from = values;
  for (TopKPart& part : parts) {
    if (part.count == 0) continue;
    ranks.resize((part.count + 7) / 8);
    const size_t left =
        kernels.refine(from, part.count, threshold.key, &threshold.ties, ranks.data(), values);
    expand_bits(ranks.data(), part.count, part.bits, part.n, Through::kMask, part.bits, isa);
    from += part.count, values += left;
    part.count = left;
  }
}

// The threshold by three histograms of the magnitudes' digits, highest first. Returns false where
// one is a NaN's.
bool threshold_of_all(std::span<const TopKPart> parts, size_t k, Threshold* out) {
  constexpr int kShifts[] = {20, 10, 0};
  constexpr size_t kBins = 1 << 11;
  uint32_t prefix = 0, mask = 0;
  for (const int shift : kShifts) {
    std::vector<size_t> bins(kBins);
    for (const TopKPart& part : parts) {
      for (size_t i = 0; i < part.n; ++i) {
        uint32_t key;
        std::memcpy(&key, part.x + i, sizeof(key));
        key &= kMagnitudeBits;
        if (mask == 0 && key > kInfinityKey) return false;
        bins[key >> shift & (kBins - 1)] += (key & mask) == prefix ? 1 : 0;
      }
    }
    // The digits below the highest have 10 bits.
    size_t bin = kBins - 1;
    for (; k > bins[bin]; --bin) k -= bins[bin];
    prefix |= static_cast<uint32_t>(bin) << shift;
    mask |= static_cast<uint32_t>(shift == 20 ? kBins - 1 : kBins / 2 - 1) << shift;
  }
  *out = {prefix, k};
  return true;
}

// Keeps what reaches the threshold in a pass of its own.
void keep_exactly(std::span<TopKPart> parts, Threshold threshold, const DenseKernels& kernels,
                  float* values) {
  for (TopKPart& part : parts) {
    if (part.n == 0) continue;
    part.count = kernels.refine(part.x, part.n, threshold.key, &threshold.ties, part.bits, values);
    values += part.count;
  }
}

size_t slack_of(size_t n, double share) {
  const double deviations = 2 * kDeviations * deviation(share) / kSample;
  return static_cast<size_t>(deviations * static_cast<double>(n)) + kStep;
}

bool has_nan(std::span<const TopKPart> parts, const DenseKernels& kernels) {
  uint32_t scratch[kAppendSlack], largest = 0;
  for (const TopKPart& part : parts) kernels.collect(part.x, part.n, 0, scratch, &largest);
  return largest > kInfinityKey;
}

}  // namespace

size_t top_k_capacity(size_t n, size_t k) {
  if (n <= kFew || k == 0 || k == n) return k + kAppendSlack;
  const double share = static_cast<double>(k) / static_cast<double>(n);
  return std::min(n, k + slack_of(n, share)) + kStep + kAppendSlack;
}

bool top_k(std::span<TopKPart> parts, size_t k, float* values, Isa isa) {
  const DenseKernels& kernels = dense_kernels(isa);
  const size_t n = total_of(parts);
  if (k == 0 || k == n) {
    if (has_nan(parts, kernels)) return false;
    float* to = values;
    for (TopKPart& part : parts) {
      part.count = k == 0 ? 0 : part.n;
      if (part.n == 0) continue;
      std::memset(part.bits, 0, (part.n + 7) / 8);
      if (k == 0) continue;
      fill_bits(part.n, part.bits);
      std::memcpy(to, part.x, part.n * sizeof(float));
      to += part.n;
    }
    return true;
  }
  if (n > kFew) {
    const Bracket bounds = bracket(parts, n, k);
    const double share = static_cast<double>(k) / static_cast<double>(n);
    Kept kept;
    if (bounds.high > bounds.low &&
        keep(parts, bounds, top_k_capacity(n, k), kernels, values, 2 * slack_of(n, share), &kept)) {
      if (kept.largest > kInfinityKey) return false;
      const size_t above = kept.count - kept.between.size();
      if (above < k && k <= kept.count) {
        Threshold threshold{select(kept.between, k - above, bounds), k - above};
        for (uint32_t key : kept.between) threshold.ties -= key > threshold.key ? 1 : 0;
        if (kept.count != k) drop(parts, threshold, kernels, isa, values);
        return true;
      }
    }
  }
  Threshold threshold;
  if (!threshold_of_all(parts, k, &threshold)) return false;
  keep_exactly(parts, threshold, kernels, values);
  return true;
}

}  // namespace sparsefl::codec
