// The loops of rank.h over the words of one machine, included by rank.cpp and rank_bmi2.cpp after
// they have defined `Word`: extract(x, m), deposit(x, m) and count(m) of 64-bit words.

namespace sparsefl::codec {
namespace {

inline uint64_t load_word(const uint8_t* p) {
  uint64_t word;
  __builtin_memcpy(&word, p, sizeof(word));
  return word;
}

inline void store_word(uint8_t* p, uint64_t word) { __builtin_memcpy(p, &word, sizeof(word)); }

inline uint64_t load_some(const uint8_t* p, size_t bytes) {
  uint64_t word = 0;
  __builtin_memcpy(&word, p, bytes < sizeof(word) ? bytes : sizeof(word));
  return word;
}

inline void store_some(uint8_t* p, uint64_t word, size_t bytes) {
  __builtin_memcpy(p, &word, bytes < sizeof(word) ? bytes : sizeof(word));
}

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

// The 64 bits from bit `at` on; those past the `bytes` bytes are zero.
inline uint64_t bits_at(const uint8_t* data, size_t bytes, size_t at) {
  const size_t byte = at / 8;
  if (byte >= bytes) return 0;
  const uint64_t low = load_some(data + byte, bytes - byte) >> at % 8;
  const uint64_t high = byte + 8 < bytes ? data[byte + 8] : 0;
  return low | high << 1 << (63 - at % 8);
}

void expand_words(const uint8_t* ranks, size_t count, const uint8_t* mask, size_t n, uint64_t flip,
                  uint8_t* out) {
  const size_t bytes = (count + 7) / 8, whole = n / 64 * 8;
  size_t i = 0, at = 0;
  for (; i < whole && at / 8 + 9 <= bytes; i += 8) {
    const uint64_t m = load_word(mask + i) ^ flip;
    const uint64_t high = ranks[at / 8 + 8];
    const uint64_t x = load_word(ranks + at / 8) >> at % 8 | high << 1 << (63 - at % 8);
    store_word(out + i, Word::deposit(x, m));
    at += Word::count(m);
  }
  for (; i < whole; i += 8) {
    const uint64_t m = load_word(mask + i) ^ flip;
    store_word(out + i, Word::deposit(bits_at(ranks, bytes, at), m));
    at += Word::count(m);
  }
  if (const LastWord last(n); last.bytes != 0) {
    const uint64_t m = (load_some(mask + whole, last.bytes) ^ flip) & last.valid;
    store_some(out + whole, Word::deposit(bits_at(ranks, bytes, at), m), last.bytes);
  }
}

}  // namespace
}  // namespace sparsefl::codec
