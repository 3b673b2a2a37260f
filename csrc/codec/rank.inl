// The loops of rank.h over the words of one machine, included by rank.cpp and rank_bmi2.cpp after
// they have defined `Word`: extract(x, m), deposit(x, m) and count(m) of 64-bit words.

#include "codec/words.inl"

namespace sparsefl::codec {
namespace {

// The last word of n positions, of which n % 64 count.
struct LastWord {
  size_t first_byte, bytes;
  uint64_t valid;
  explicit LastWord(size_t n)
      : first_byte(n / 64 * 8), bytes((n % 64 + 7) / 8), valid((uint64_t{1} << n % 64) - 1) {}
};

// Bits behind each other, into memory that ends at `end`.
struct BitSink {
  uint8_t* out;
  uint8_t* end;
  uint64_t filled = 0;  // the bits that wait for a whole word
  unsigned fill = 0;

  size_t room() const { return static_cast<size_t>(end - out); }

  // Where 8 bytes of room are left. No branch: whether a word gets full is not predictable.
  void append(uint64_t x, unsigned count) {
    filled |= x << fill;
    store_word(out, filled);
    const uint64_t spilled = x >> 1 >> (63 - fill);
    const bool full = fill + count >= 64;
    out += full ? 8 : 0;
    filled = full ? spilled : filled;
    fill = (fill + count) & 63;
  }

  void append_last(uint64_t x, unsigned count) {
    if (room() >= 8) return append(x, count);
    filled |= x << fill;
    fill = fill + count < 64 ? fill + count : 63;
  }

  void finish() {
    const size_t bytes = (fill + 7) / 8;
    store_some(out, filled, bytes < room() ? bytes : room());
  }
};

void compress_words(const uint8_t* bits, const uint8_t* mask, size_t n, uint64_t flip, size_t count,
                    uint8_t* out) {
  BitSink sink{out, out + (count + 7) / 8};
  const size_t whole = n / 64 * 8;
  size_t i = 0;
  for (; i < whole && sink.room() >= 8; i += 8) {
    const uint64_t m = load_word(mask + i) ^ flip;
    sink.append(Word::extract(load_word(bits + i), m), Word::count(m));
  }
  for (; i < whole; i += 8) {
    const uint64_t m = load_word(mask + i) ^ flip;
    sink.append_last(Word::extract(load_word(bits + i), m), Word::count(m));
  }
  if (const LastWord last(n); last.bytes != 0) {
    const uint64_t m = (load_some(mask + whole, last.bytes) ^ flip) & last.valid;
    sink.append_last(Word::extract(load_some(bits + whole, last.bytes), m), Word::count(m));
  }
  sink.finish();
}

void expand_words(const uint8_t* ranks, size_t count, const uint8_t* mask, size_t n, uint64_t flip,
                  uint8_t* out) {
  const size_t bytes = (count + 7) / 8, whole = n / 64 * 8;
  size_t i = 0, at = 0;
  for (; i < whole && at / 8 + 9 <= bytes; i += 8) {
    const uint64_t m = load_word(mask + i) ^ flip;
    store_word(out + i, Word::deposit(load_bits(ranks, at), m));
    at += Word::count(m);
  }
  for (; i < whole; i += 8) {
    const uint64_t m = load_word(mask + i) ^ flip;
    store_word(out + i, Word::deposit(load_some_bits(ranks, bytes, at), m));
    at += Word::count(m);
  }
  if (const LastWord last(n); last.bytes != 0) {
    const uint64_t m = (load_some(mask + whole, last.bytes) ^ flip) & last.valid;
    store_some(out + whole, Word::deposit(load_some_bits(ranks, bytes, at), m), last.bytes);
  }
}

}  // namespace
}  // namespace sparsefl::codec
