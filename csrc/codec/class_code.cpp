#include "codec/class_code.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>

#include "codec/byte_code.h"

namespace sparsefl::codec {
namespace {

constexpr int kMaxClasses = 16;
// Written are at most so many: twice as many save .4 % of FedAvg's changes, and their tables take
// more than that of less.
constexpr int kMostWritten = 8;
constexpr int kLeastBlockLog2 = 4;
// On FedAvg's changes in int8 blocks of 32 take 2 % less than blocks of 64, which take 3 % less
// than those of 128; below 32 the classes themselves are too many.
constexpr int kBlockLog2 = 5;
constexpr size_t kBlock = size_t{1} << kBlockLog2;
// What a class should have, so that its table and states stay below 2 % of it.
constexpr size_t kClassBytes = 8192;
// Fewer symbols have no classes: tables would take what these save.
constexpr size_t kLeastSymbols = 8192;
// From so many symbols on a class has so many lanes.
constexpr size_t kWideSymbols = size_t{1} << 13, kWideLanes = 32;
// Classes are found on so many blocks.
constexpr size_t kSample = 1024;
// Two more save 3 in 10,000 bytes.
constexpr int kSteps = 3;
// Blocks' sums vary 1 to 3.6 times as much as independent symbols' do where values are independent,
// the more the heavier the tails that a scale of 1024 values is taken from; 4.6 to 6.8 times where
// they are the largest of normal ones, whose classes save 1 %; 9 and more of Student's t and in
// FedAvg's changes.
constexpr uint64_t kLeastSpread = 8;
// Costs count in 2^-5 bits: a block's stays below 2^15.
constexpr int kCostBits = 5;
// A code must save this part of the plain one, for it takes twice the time: 1 / 32.
constexpr int kLeastSavingLog2 = 5;
// What the table of a class takes, about, and what its states do.
constexpr uint64_t kTableBytes = 50, kStateBytes = 3 * kWideLanes;

// Costs of one symbol, or of a block, in each class.
typedef int16_t Costs __attribute__((vector_size(2 * kMostWritten)));

// The class of least cost, in steps of 8; the first of equals.
inline uint8_t cheapest(Costs costs) {
  constexpr Costs kClass = {0, 1, 2, 3, 4, 5, 6, 7};
  Costs keys = (costs & ~7) | kClass;
  const auto take_lower = [&](Costs other) { keys = keys < other ? keys : other; };
  take_lower(__builtin_shufflevector(keys, keys, 4, 5, 6, 7, 0, 1, 2, 3));
  take_lower(__builtin_shufflevector(keys, keys, 2, 3, 0, 1, 6, 7, 4, 5));
  take_lower(__builtin_shufflevector(keys, keys, 1, 0, 3, 2, 5, 4, 7, 6));
  return static_cast<uint8_t>(keys[0] & 7);
}

// log2(1 + i / 256) in units of 2^-kCostBits, rounded down: each squaring gives a bit.
constexpr std::array<uint8_t, 256> make_logarithms() {
  std::array<uint8_t, 256> logs{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint64_t mantissa = uint64_t{256 + i} << 23;  // in [2^31, 2^32)
    uint32_t log = 0;
    for (int bit = 0; bit < kCostBits; ++bit) {
      mantissa = mantissa * mantissa >> 31;
      const auto doubled = static_cast<uint32_t>(mantissa >> 32);
      log = log << 1 | doubled;
      mantissa >>= doubled;
    }
    logs[i] = static_cast<uint8_t>(log);
  }
  return logs;
}
constexpr auto kLogarithms = make_logarithms();

// log2(x) in units of 2^-kCostBits, by the upper nine bits of x, for 1 <= x < 2^32.
inline uint32_t log2_of(uint32_t x) {
  const int whole = std::bit_width(x) - 1;
  const uint64_t mantissa = (uint64_t{x} << 8 >> whole) & 255;
  return static_cast<uint32_t>(whole) << kCostBits | kLogarithms[mantissa];
}

size_t blocks_of(size_t n, int block_log2) {
  return (n + (size_t{1} << block_log2) - 1) >> block_log2;
}

// Divides whole blocks into classes, such that those of a class have about the same probabilities:
// Lloyd's algorithm with the code's length for a distance. Integers alone: every machine finds the
// same.
class Classes {
 public:
  Classes(const uint8_t* symbols, size_t n)
      : symbols_(symbols),
        blocks_(n >> kBlockLog2),
        classes_(static_cast<int>(std::clamp<size_t>(n / kClassBytes, 2, kMostWritten))),
        step_(std::max<size_t>(1, blocks_ / kSample)),
        costs_(256),
        counts_(2 * 256 * kMostWritten) {}

  int number() const { return classes_; }

  // Whether classes of a sample save enough to look at all blocks. They are then known.
  bool find(bool always) {
    const std::vector<uint32_t> sums = block_sums();
    if (!always && !is_uneven(sums)) return false;
    std::vector<uint8_t> labels = ranked(sums);
    const uint64_t one = learn(std::vector<uint8_t>(labels.size(), 0), step_);
    uint64_t best = learn(labels, step_);
    for (int i = 0; i < kSteps; ++i) {
      assign(step_, labels.data());
      best = learn(labels, step_);
    }
    return always || best + overhead() + (one >> kLeastSavingLog2) < one;
  }

  // The classes of all blocks; that of what is left behind them too.
  void label(uint8_t* labels) { assign(1, labels); }

 private:
  // What classes take beside their symbols, the sample's part of it, as a cost.
  uint64_t overhead() const {
    const auto classes = static_cast<size_t>(classes_);
    const bool wide = blocks_ * kBlock >= classes * kWideSymbols;
    return (8 * classes * (kTableBytes + (wide ? kStateBytes : 0)) << kCostBits) / step_;
  }

  // Of every step_-th block the sum of magnitudes, of bytes as signed numbers.
  std::vector<uint32_t> block_sums() {
    std::vector<uint32_t> sums((blocks_ + step_ - 1) / step_);
    for (size_t i = 0; i < sums.size(); ++i) {
      const uint8_t* block = symbols_ + (i * step_ << kBlockLog2);
      uint32_t squares = 0;
      for (size_t j = 0; j < kBlock; ++j) {
        const auto magnitude = static_cast<uint32_t>(std::abs(static_cast<int8_t>(block[j])));
        sums[i] += magnitude;
        squares += magnitude * magnitude;
      }
      squares_ += squares;
    }
    return sums;
  }

  // Whether these sums vary more than those of independent symbols: their variance is kBlock times
  // that of the symbols. Both sides of the comparison are times the square of their number.
  bool is_uneven(const std::vector<uint32_t>& sums) const {
    uint64_t all = 0, squares = 0;
    for (const uint32_t sum : sums) {
      all += sum;
      squares += uint64_t{sum} * sum;
    }
    const uint64_t even = sums.size() * squares_ - all * all / kBlock;
    return even != 0 && sums.size() * squares - all * all >= kLeastSpread * even;
  }

  // Classes of blocks by their sums, equally many of each.
  std::vector<uint8_t> ranked(const std::vector<uint32_t>& sums) const {
    std::vector<uint32_t> order(sums.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](uint32_t a, uint32_t b) { return sums[a] < sums[b]; });
    std::vector<uint8_t> labels(sums.size());
    for (size_t i = 0; i < labels.size(); ++i)
      labels[order[i]] = static_cast<uint8_t>(i * static_cast<size_t>(classes_) / labels.size());
    return labels;
  }

  // Takes the costs of symbols from blocks of known classes. Returns what these blocks cost, in
  // 2^-kCostBits bits, what tells their classes apart included.
  uint64_t learn(const std::vector<uint8_t>& labels, size_t step) {
    std::fill(counts_.begin(), counts_.end(), 0u);
    uint32_t blocks[kMostWritten] = {};
    for (size_t i = 0; i < labels.size(); ++i) {
      const uint8_t* block = symbols_ + (i * step << kBlockLog2);
      // Equal neighbours would wait for each other's count: two tables.
      uint32_t* counts = counts_.data() + 512 * labels[i];
      for (size_t j = 0; j < kBlock; j += 2) {
        ++counts[block[j]];
        ++counts[256 + block[j + 1]];
      }
      ++blocks[labels[i]];
    }
    const uint32_t all = log2_of(static_cast<uint32_t>(labels.size()) + kMostWritten);
    uint64_t cost = 0;
    for (int c = 0; c < kMostWritten; ++c) {
      const uint32_t* counts = counts_.data() + 512 * c;
      // What a block of the class pays for it, a symbol's part; a class of no block is never taken.
      const uint32_t own = all - log2_of(blocks[c] + 1);
      const uint32_t total = log2_of(4 * kBlock * blocks[c] + 256);
      for (int s = 0; s < 256; ++s) {
        const uint32_t count = counts[s] + counts[256 + s];
        const uint32_t bits = total - log2_of(4 * count + 1);
        costs_[static_cast<size_t>(s)][c] =
            static_cast<int16_t>(blocks[c] == 0 ? kNever : bits + own / kBlock);
        cost += uint64_t{count} * bits;
      }
      cost += uint64_t{blocks[c]} * own;
    }
    return cost;
  }

  // Gives every step-th block the class of least cost.
  void assign(size_t step, uint8_t* labels) const {
    const Costs* const costs = costs_.data();
    for (size_t i = 0; i * step < blocks_; ++i) {
      const uint8_t* block = symbols_ + (i * step << kBlockLog2);
      Costs even{}, odd{};
      for (size_t j = 0; j < kBlock; j += 2) {
        even += costs[block[j]];
        odd += costs[block[j + 1]];
      }
      labels[i] = cheapest(even + odd);
    }
  }

  // kBlock of them are just below 2^15, and no symbol's cost exceeds 31 bits.
  static constexpr uint32_t kNever = ((1 << 15) - 1) / kBlock;

  const uint8_t* symbols_;
  size_t blocks_;
  int classes_;
  size_t step_;
  // Of the magnitudes of the sample.
  uint64_t squares_ = 0;
  std::vector<Costs> costs_;
  std::vector<uint32_t> counts_;
};

// Moves blocks between their places and those of their classes.
template <class Move>
void for_blocks(const uint8_t* labels, size_t n, int block_log2, const size_t* begins, Move move) {
  size_t at[kMaxClasses];
  std::copy_n(begins, kMaxClasses, at);
  const size_t block = size_t{1} << block_log2;
  for (size_t i = 0, done = 0; done < n; ++i, done += block) {
    const size_t bytes = std::min(block, n - done);
    move(done, at[labels[i]], bytes);
    at[labels[i]] += bytes;
  }
}

// Appends the code of one class, of lanes by its symbols: those of little content are many, and
// would be decoded one after the other.
void append_class(const uint8_t* symbols, size_t n, std::vector<uint8_t>* out) {
  if (n == 0) return;
  uint32_t counts[256] = {};
  count_bytes(symbols, n, counts);
  ByteModel model = choose_byte_model(counts, n, Profile::kRans);
  if (n >= kWideSymbols && model.coder > ByteCoder::kRepeated)
    model.lanes = std::max(model.lanes, kWideLanes);
  append_byte_code(symbols, n, model, out);
}

// How many symbols each class has, and where they begin.
void sizes_of(const uint8_t* labels, size_t n, int block_log2, size_t* sizes, size_t* begins) {
  std::fill_n(sizes, kMaxClasses, size_t{0});
  const size_t blocks = blocks_of(n, block_log2);
  for (size_t i = 0; i < blocks; ++i) sizes[labels[i]] += size_t{1} << block_log2;
  sizes[labels[blocks - 1]] -= (blocks << block_log2) - n;
  std::exclusive_scan(sizes, sizes + kMaxClasses, begins, size_t{0});
}

}  // namespace

bool append_class_code(const uint8_t* symbols, size_t n, uint64_t bytes, bool always,
                       std::vector<uint8_t>* out) {
  if (n < (always ? 2 * kBlock : kLeastSymbols)) return false;
  Classes classes(symbols, n);
  if (!classes.find(always)) return false;
  const size_t blocks = blocks_of(n, kBlockLog2);
  const std::unique_ptr<uint8_t[]> labels(new uint8_t[blocks]);
  classes.label(labels.get());
  if (n % kBlock != 0) labels[blocks - 1] = labels[blocks - 2];
  size_t sizes[kMaxClasses], begins[kMaxClasses];
  sizes_of(labels.get(), n, kBlockLog2, sizes, begins);
  const std::unique_ptr<uint8_t[]> sorted(new uint8_t[n]);
  for_blocks(labels.get(), n, kBlockLog2, begins, [&](size_t place, size_t at, size_t size) {
    std::memcpy(sorted.get() + at, symbols + place, size);
  });
  const size_t begin = out->size();
  out->push_back(static_cast<uint8_t>(kBlockLog2 | (classes.number() - 1) << 4));
  append_byte_code(labels.get(), blocks, Profile::kRans, out);
  for (int c = 0; c < classes.number(); ++c) append_class(sorted.get() + begins[c], sizes[c], out);
  if (always || out->size() - begin < bytes - (bytes >> kLeastSavingLog2)) return true;
  out->resize(begin);
  return false;
}

Reason read_class_code(const uint8_t* data, size_t bytes, size_t n, uint8_t* symbols,
                       size_t* used) {
  if (bytes == 0) return Reason::kSectionLength;
  const int block_log2 = data[0] & 15, classes = 1 + (data[0] >> 4);
  if (block_log2 < kLeastBlockLog2) return Reason::kCode;
  const size_t blocks = blocks_of(n, block_log2);
  const std::unique_ptr<uint8_t[]> labels(new uint8_t[blocks]);
  size_t at = 1, more = 0;
  Reason reason =
      read_byte_code(data + at, bytes - at, blocks, Profile::kRans, labels.get(), &more);
  if (reason != Reason::kNone) return reason;
  if (*std::max_element(labels.get(), labels.get() + blocks) >= classes) return Reason::kCode;
  at += more;
  size_t sizes[kMaxClasses], begins[kMaxClasses];
  sizes_of(labels.get(), n, block_log2, sizes, begins);
  const std::unique_ptr<uint8_t[]> sorted(new uint8_t[n]);
  for (int c = 0; c < classes; ++c, at += more) {
    reason = read_byte_code(data + at, bytes - at, sizes[c], Profile::kRans,
                            sorted.get() + begins[c], &more);
    if (reason != Reason::kNone) return reason;
  }
  for_blocks(labels.get(), n, block_log2, begins, [&](size_t place, size_t from, size_t size) {
    std::memcpy(symbols + place, sorted.get() + from, size);
  });
  *used = at;
  return Reason::kNone;
}

}  // namespace sparsefl::codec
