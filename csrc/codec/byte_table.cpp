#include "codec/byte_table.h"

#include <algorithm>
#include <array>
#include <bit>

namespace sparsefl::codec {
namespace {

// Whether symbols are numbers, whose neighbours are alike, or digits of a base that are drawn one
// by one.
constexpr int kBases[4] = {0, 2, 3, 16};
constexpr int kForms = 16;
constexpr int kEscapeOrder = 5;
// Longest run of zeros of a code: no residual has more bits.
constexpr int kMaxZeros = 13;

struct Form {
  int base = 0;
  int sharpness = 0;
};
constexpr Form form_of(int head) { return {kBases[head & 3], head >> 2}; }

// A symbol as a leading digit and the rest, or where there is no rest, as `similar`, one that is
// alike.
struct Split {
  uint8_t high, low, similar;
};

constexpr std::array<Split, 256> make_splits(int base) {
  std::array<Split, 256> splits{};
  for (int s = 1; s < 256; ++s) {
    int power = 1;
    while (power * base <= s) power *= base;
    const int low = s % power;
    const int similar = power == 1 ? s - 1 : s / base;
    splits[static_cast<size_t>(s)] = {static_cast<uint8_t>(s - low), static_cast<uint8_t>(low),
                                      static_cast<uint8_t>(similar)};
  }
  return splits;
}
constexpr std::array<Split, 256> kSplits[4] = {{}, make_splits(2), make_splits(3), make_splits(16)};

// What is expected of symbol s > 0 by those before it.
uint32_t expected(const uint16_t* f, const std::array<Split, 256>& splits, int s) {
  const Split split = splits[static_cast<size_t>(s)];
  if (split.low == 0) return f[split.similar];
  const uint32_t none = std::max<uint32_t>(1, f[0]);
  const uint32_t product = (uint32_t{f[split.low]} * f[split.high] + none / 2) / none;
  return std::min(product, kProbabilityOne);
}

// Residuals: below 2 * expected they alternate around it, beyond they are the frequency itself.
uint32_t fold(uint32_t f, uint32_t expected) {
  if (f > 2 * expected) return f;
  return f >= expected ? 2 * (f - expected) : 2 * (expected - f) - 1;
}
uint32_t unfold(uint32_t z, uint32_t expected) {
  if (z > 2 * expected) return z;
  return z % 2 == 0 ? expected + z / 2 : expected - (z + 1) / 2;
}

// The order of the exponential Golomb code of a residual.
int order_of(uint32_t expected, int sharpness) {
  return std::max(0, static_cast<int>(std::bit_width(expected)) / 2 - sharpness);
}

int golomb_bits(uint32_t value, int order) {
  return 2 * std::bit_width((value >> order) + 1) - 1 + order;
}

class BitWriter {
 public:
  explicit BitWriter(std::vector<uint8_t>* out) : out_(out) {}

  void golomb(uint32_t value, int order) {
    const uint32_t high = (value >> order) + 1;
    const int zeros = std::bit_width(high) - 1;
    put(1u << zeros, zeros + 1);
    put(high & ((1u << zeros) - 1), zeros);
    put(value & ((1u << order) - 1), order);
  }

  void finish() {
    if (fill_ > 0) out_->push_back(static_cast<uint8_t>(held_));
  }

 private:
  void put(uint64_t value, int width) {
    held_ |= value << fill_;
    for (fill_ += width; fill_ >= 8; fill_ -= 8, held_ >>= 8)
      out_->push_back(static_cast<uint8_t>(held_));
  }

  std::vector<uint8_t>* out_;
  uint64_t held_ = 0;
  int fill_ = 0;
};

class BitReader {
 public:
  BitReader(const uint8_t* data, size_t bytes) : data_(data), bits_(8 * bytes) {}

  // Past the end or too long: `failed`.
  uint32_t golomb(int order) {
    int zeros = 0;
    while (take() == 0)
      if (++zeros > kMaxZeros || failed) return failed = true, 0;
    uint32_t high = 1u << zeros;
    for (int i = 0; i < zeros; ++i) high |= take() << i;
    uint32_t low = 0;
    for (int i = 0; i < order; ++i) low |= take() << i;
    return (high - 1) << order | low;
  }

  size_t used() const { return (at_ + 7) / 8; }
  bool is_padded() const { return at_ % 8 == 0 || data_[at_ / 8] >> (at_ % 8) == 0; }

  bool failed = false;

 private:
  uint32_t take() {
    if (at_ >= bits_) return failed = true, 0;
    const uint32_t bit = data_[at_ / 8] >> (at_ % 8) & 1;
    ++at_;
    return bit;
  }

  const uint8_t* data_;
  size_t bits_;
  size_t at_ = 0;
};

// Where the symbols that a table states begin, and how many there are, modulo 256.
struct Range {
  int first = 0;
  int count = 0;
};

// The shortest range; one of digits begins at symbol 0.
Range range_of(const uint16_t* f, int base) {
  Range range;
  if (base != 0) {
    range.count = 256;
    while (f[range.count - 1] == 0) --range.count;
    return range;
  }
  int longest = 0;
  int run = 0;
  for (int s = 0; s < 512; ++s) {
    run = f[s & 255] == 0 ? run + 1 : 0;
    if (run > longest) longest = run, range.first = (s + 1) & 255;
  }
  range.count = 256 - longest;
  return range;
}

// Calls visit(symbol, expected, frequency) for each symbol of the range; it may set the frequency.
template <class Visit>
void visit_range(Range range, int head, uint16_t* f, const Visit& visit) {
  const auto& splits = kSplits[head & 3];
  uint32_t before = 0;
  for (int i = 0; i < range.count; ++i) {
    const int s = (range.first + i) & 255;
    const uint32_t guess = kBases[head & 3] == 0 || s == 0 ? before : expected(f, splits, s);
    visit(guess, f + s);
    before = f[s];
  }
}

// The frequencies but for that of the escape, and that.
struct Split2 {
  uint16_t of[256];
  uint32_t escape;
};

Split2 without_escape(const SymbolTable& table) {
  Split2 split{};
  std::copy_n(table.frequencies.of, 256, split.of);
  if (table.escape != kNoEscape) {
    split.escape = table.frequencies.of[table.escape];
    split.of[table.escape] = 0;
  }
  return split;
}

struct Choice {
  int head = 0;
  int bits = 0;
  Range range;
};

Choice choose_form(Split2* split) {
  Choice best;
  best.bits = 1 << 30;
  for (int base = 0; base < 4; ++base) {
    const Range range = range_of(split->of, kBases[base]);
    int bits[4] = {};
    visit_range(range, base, split->of, [&](uint32_t guess, const uint16_t* f) {
      for (int sharpness = 0; sharpness < 4; ++sharpness)
        bits[sharpness] += golomb_bits(fold(*f, guess), order_of(guess, sharpness));
    });
    for (int sharpness = 0; sharpness < 4; ++sharpness) {
      const int all = bits[sharpness] + (base == 0 ? 24 : 16);
      if (all < best.bits) best = {base | sharpness << 2, all, range};
    }
  }
  if (split->escape != 0) best.bits += golomb_bits(split->escape, kEscapeOrder);
  return best;
}

}  // namespace

size_t table_bytes(const SymbolTable& table) {
  Split2 split = without_escape(table);
  return static_cast<size_t>(choose_form(&split).bits + 7) / 8;
}

void append_table(const SymbolTable& table, std::vector<uint8_t>* out) {
  Split2 split = without_escape(table);
  const Choice choice = choose_form(&split);
  const int sharpness = form_of(choice.head).sharpness;
  out->push_back(static_cast<uint8_t>(choice.head));
  if (form_of(choice.head).base == 0) out->push_back(static_cast<uint8_t>(choice.range.first));
  out->push_back(static_cast<uint8_t>(choice.range.count - 1));
  BitWriter bits(out);
  if (table.escape != kNoEscape) bits.golomb(split.escape, kEscapeOrder);
  visit_range(choice.range, choice.head, split.of, [&](uint32_t guess, const uint16_t* f) {
    bits.golomb(fold(*f, guess), order_of(guess, sharpness));
  });
  bits.finish();
}

Reason read_table(const uint8_t* data, size_t bytes, bool escape, SymbolTable* table,
                  size_t* used) {
  if (bytes < 2) return Reason::kSectionLength;
  const int head = data[0];
  if (head >= kForms) return Reason::kCode;
  const Form form = form_of(head);
  const size_t fixed = form.base == 0 ? 3 : 2;
  if (bytes < fixed) return Reason::kSectionLength;
  const Range range{form.base == 0 ? data[1] : 0, data[fixed - 1] + 1};
  BitReader bits(data + fixed, bytes - fixed);
  uint16_t* const f = table->frequencies.of;
  std::fill_n(f, 256, uint16_t{0});
  const uint32_t escaped = escape ? bits.golomb(kEscapeOrder) : 0;
  uint32_t sum = escaped;
  visit_range(range, head, f, [&](uint32_t guess, uint16_t* at) {
    const uint32_t value = unfold(bits.golomb(order_of(guess, form.sharpness)), guess);
    // Too large a sum fails below whatever this keeps.
    *at = static_cast<uint16_t>(std::min(value, kProbabilityOne));
    sum += *at;
  });
  if (bits.failed) return Reason::kSectionLength;
  if (!bits.is_padded()) return Reason::kPadding;
  table->escape = kNoEscape;
  if (escape) {
    const uint16_t* const free = std::find(f, f + 256, uint16_t{0});
    if (escaped == 0 || escaped >= kProbabilityOne || free == f + 256) return Reason::kCode;
    table->escape = static_cast<int>(free - f);
    f[table->escape] = static_cast<uint16_t>(escaped);
  }
  if (sum != kProbabilityOne || *std::max_element(f, f + 256) == kProbabilityOne)
    return Reason::kCode;
  *used = fixed + bits.used();
  return Reason::kNone;
}

}  // namespace sparsefl::codec
