#include "codec/row_code.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "codec/bit_strings.h"
#include "codec/bits.h"
#include "codec/byte_code.h"

namespace sparsefl::codec {
namespace {

constexpr size_t kClasses = 16;
constexpr size_t kNumberBytes = 3;
// Of a class: the number of its set bits, its coder, the bytes of its code.
constexpr size_t kClassHeadBytes = 2 * kNumberBytes + 1;

constexpr size_t bytes_of(size_t bits) { return (bits + 7) / 8; }

void append_number(uint64_t number, std::vector<uint8_t>* out) {
  for (size_t i = 0; i < kNumberBytes; ++i) out->push_back(static_cast<uint8_t>(number >> (8 * i)));
}

size_t load_number(const uint8_t* from) {
  size_t number = 0;
  std::memcpy(&number, from, kNumberBytes);
  return number;
}

std::vector<uint32_t> count_rows(const uint8_t* bits, size_t n, size_t row) {
  std::vector<uint32_t> counts(n / row);
  if (row % 8 == 0) {
    for (size_t j = 0; j < counts.size(); ++j)
      counts[j] = static_cast<uint32_t>(popcount(bits + j * row / 8, row / 8));
    return counts;
  }
  for (size_t j = 0; j < counts.size(); ++j)
    for (size_t i = 0; i < row; i += kPieceBits)
      counts[j] += static_cast<uint32_t>(
          std::popcount(get_bits(bits, bytes_of(n), j * row + i, std::min(kPieceBits, row - i))));
  return counts;
}

// Whether classes can pay. Of rows of one density the squares of the counts' differences from their
// mean add up to about rows * mean * (1 - density); each row more saves .7 bits, and its class
// takes two or three.
bool differ_in_density(const std::vector<uint32_t>& counts, size_t n) {
  uint64_t total = 0;
  for (const uint32_t c : counts) total += c;
  const uint64_t rows = counts.size();
  // Differences in units of 1 / rows of a bit would not fit: whole bits, rounded, do.
  const uint64_t mean = (total + rows / 2) / rows;
  uint64_t squares = 0;
  for (const uint32_t c : counts) {
    const uint64_t difference = c > mean ? c - mean : mean - c;
    squares += difference * difference;
  }
  return squares > 3 * (total - total * total / n) + rows;
}

// Two classes an octave of counts; 0 to 3 have one each.
uint32_t raw_class(uint32_t count) {
  if (count < 4) return count;
  const auto octave = static_cast<uint32_t>(std::bit_width(count));
  return 2 * octave - 2 + ((count >> (octave - 2)) & 1);
}

// The upper kClasses classes of those that occur; what is below joins the lowest of them.
std::vector<uint8_t> classify(const std::vector<uint32_t>& counts) {
  uint32_t least = ~0u;
  uint32_t most = 0;
  for (const uint32_t c : counts) {
    least = std::min(least, raw_class(c));
    most = std::max(most, raw_class(c));
  }
  if (most - least >= kClasses) least = most - (kClasses - 1);
  std::vector<uint8_t> classes(counts.size());
  for (size_t j = 0; j < counts.size(); ++j)
    classes[j] = static_cast<uint8_t>(std::max(raw_class(counts[j]), least) - least);
  return classes;
}

// The rows of a class one after the other, or back.
template <bool kBack>
void move_rows(const std::vector<uint8_t>& classes, uint8_t wanted, size_t n, size_t row,
               const uint8_t* from, size_t class_bytes, uint8_t* to) {
  size_t at = 0;
  for (size_t j = 0; j < classes.size(); ++j) {
    if (classes[j] != wanted) continue;
    if (kBack)
      copy_bits(from, class_bytes, at, row, to, bytes_of(n), j * row);
    else
      copy_bits(from, bytes_of(n), j * row, row, to, class_bytes, at);
    at += row;
  }
}

std::array<size_t, kClasses> sizes_of(const std::vector<uint8_t>& classes) {
  std::array<size_t, kClasses> sizes{};
  for (const uint8_t c : classes) ++sizes[c];
  return sizes;
}

}  // namespace

bool append_rows(const uint8_t* bits, size_t n, size_t row, Profile profile, bool always,
                 Scratch* scratch, std::vector<uint8_t>* out) {
  const std::vector<uint32_t> counts = count_rows(bits, n, row);
  if (!always && !differ_in_density(counts, n)) return false;
  const std::vector<uint8_t> classes = classify(counts);
  append_byte_code(classes.data(), classes.size(), profile, out);
  const std::array<size_t, kClasses> sizes = sizes_of(classes);
  std::vector<uint8_t> held;
  for (size_t c = 0; c < kClasses; ++c) {
    if (sizes[c] == 0) continue;
    held.assign(bytes_of(sizes[c] * row), 0);
    move_rows<false>(classes, static_cast<uint8_t>(c), n, row, bits, held.size(), held.data());
    const size_t set = popcount(held.data(), held.size());
    append_number(set, out);
    const size_t head = out->size();
    out->resize(head + kNumberBytes + 1);
    const BitCoder coder =
        append_flat_code(held.data(), sizes[c] * row, set, profile, scratch, out);
    (*out)[head] = static_cast<uint8_t>(coder);
    const size_t bytes = out->size() - head - kNumberBytes - 1;
    std::memcpy(out->data() + head + 1, &bytes, kNumberBytes);
  }
  return true;
}

Reason read_rows(const uint8_t* data, size_t bytes, size_t n, size_t count, size_t row,
                 Profile profile, uint8_t* bits) {
  if (!has_rows(n, row)) return Reason::kCode;
  std::vector<uint8_t> classes(n / row);
  size_t at = 0;
  Reason reason = read_byte_code(data, bytes, classes.size(), profile, classes.data(), &at);
  if (reason != Reason::kNone) return reason;
  if (*std::max_element(classes.begin(), classes.end()) >= kClasses) return Reason::kCode;
  const std::array<size_t, kClasses> sizes = sizes_of(classes);
  std::memset(bits, 0, bytes_of(n));
  std::vector<uint8_t> held;
  size_t found = 0;
  for (size_t c = 0; c < kClasses; ++c) {
    if (sizes[c] == 0) continue;
    if (bytes - at < kClassHeadBytes) return Reason::kSectionLength;
    const size_t set = load_number(data + at);
    const auto coder = static_cast<BitCoder>(data[at + kNumberBytes]);
    const size_t code_bytes = load_number(data + at + kNumberBytes + 1);
    at += kClassHeadBytes;
    if (set > sizes[c] * row) return Reason::kCode;
    if (bytes - at < code_bytes) return Reason::kSectionLength;
    held.resize(bytes_of(sizes[c] * row));
    reason =
        read_flat_code(coder, data + at, code_bytes, sizes[c] * row, set, profile, held.data());
    if (reason != Reason::kNone) return reason;
    move_rows<true>(classes, static_cast<uint8_t>(c), n, row, held.data(), held.size(), bits);
    at += code_bytes;
    found += set;
  }
  if (at != bytes) return Reason::kSectionLength;
  return found == count ? Reason::kNone : Reason::kCode;
}

}  // namespace sparsefl::codec
