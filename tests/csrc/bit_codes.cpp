// Feeds whole and damaged bit codes to their readers. Every buffer is on the heap and of the exact
// size, so that an address sanitizer sees one byte too far. Prints how many of each coder were
// read.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "codec/bit_code.h"
#include "codec/bits.h"
#include "random.h"

namespace {

using namespace sparsefl::codec;
using sparsefl::Buffer;
using sparsefl::Random;

struct Case {
  size_t n;
  size_t row;
  // Positions are set with a chance of `share` in 1000, within every `period` positions the first
  // `width` only.
  uint32_t share, period, width;
};

constexpr Case kCases[] = {{1, 0, 500, 1, 1},
                           {63, 0, 300, 1, 1},
                           {64, 8, 900, 1, 1},
                           {1000, 0, 20, 1, 1},
                           {5000, 50, 100, 1, 1},
                           {9000, 0, 990, 1, 1},
                           {70001, 0, 300, 1, 1},
                           {300000, 0, 5, 1, 1},
                           {300000, 300, 500, 3000, 300},
                           {400000, 0, 400, 140000, 9},
                           {65536, 256, 700, 256, 16},
                           {65536, 256, 1000, 256, 16},
                           {12288, 96, 1000, 3072, 1536}};

Buffer draw(const Case& c, Random* random) {
  Buffer bits((c.n + 7) / 8);
  for (size_t i = 0; i < c.n; ++i)
    if (i % c.period < c.width && random->below(1000) < c.share)
      bits.bytes[i / 8] |= static_cast<uint8_t>(1u << (i % 8));
  return bits;
}

// Reads a code into bits and indices; both say the same, and only what was asked for.
bool accepts(BitCoder coder, const Buffer& code, const Case& c, size_t count, Buffer* bits) {
  Scratch scratch;
  const Reason reason = read_bit_code(coder, code.bytes.get(), code.size, c.n, count, c.row,
                                      Profile::kRans, &scratch, bits->bytes.get());
  const std::unique_ptr<uint32_t[]> indices(new uint32_t[count]);
  const Reason again = read_bit_indices(coder, code.bytes.get(), code.size, c.n, count, c.row,
                                        Profile::kRans, &scratch, indices.get());
  if (reason != again) std::abort();
  if (reason != Reason::kNone) return false;
  if (popcount(bits->bytes.get(), bits->size) != count || !tail_is_zero(bits->bytes.get(), c.n))
    std::abort();
  for (size_t i = 0; i < count; ++i)
    if ((bits->bytes[indices[i] / 8] >> (indices[i] % 8) & 1) == 0 ||
        (i != 0 && indices[i] <= indices[i - 1]))
      std::abort();
  return true;
}

Buffer damaged(const Buffer& code, Random* random) {
  Buffer out(random->below(8) == 0 ? random->below(code.size + 9) : code.size);
  std::copy_n(code.bytes.get(), std::min(code.size, out.size), out.bytes.get());
  for (uint32_t i = random->below(3) + 1; i != 0 && out.size != 0; --i) {
    // The structure is at the front.
    const size_t at = random->below(random->below(2) ? std::min<size_t>(out.size, 24) : out.size);
    out.bytes[at] = random->below(2) ? static_cast<uint8_t>(random->next())
                                     : static_cast<uint8_t>(out.bytes[at] ^ 1u << random->below(8));
  }
  return out;
}

void run(BitCoder coder, const Case& c, Random* random, int* whole, int* wrong) {
  const Buffer bits = draw(c, random);
  const size_t count = popcount(bits.bytes.get(), bits.size);
  Scratch scratch;
  std::vector<uint8_t> code;
  if (!append_bit_code_as(coder, bits.bytes.get(), c.n, count, c.row, Profile::kRans, &scratch,
                          &code))
    return;
  Buffer exact(code.size());
  std::copy(code.begin(), code.end(), exact.bytes.get());
  Buffer back(bits.size);
  if (!accepts(coder, exact, c, count, &back) ||
      !std::equal(bits.bytes.get(), bits.bytes.get() + bits.size, back.bytes.get()))
    std::abort();
  ++*whole;
  const int rounds = c.n < 10000 ? 2000 : 100;
  for (int i = 0; i < rounds; ++i) {
    // Another coder, or count, now and then.
    const auto other = random->below(16) == 0 ? static_cast<BitCoder>(random->below(8)) : coder;
    const size_t asked = random->below(16) == 0 ? random->below(c.n + 1) : count;
    *wrong += accepts(other, damaged(exact, random), c, asked, &back);
  }
}

}  // namespace

int main() {
  Random random(1);
  for (int coder = 0; coder < 6; ++coder) {
    int whole = 0, wrong = 0;
    for (const Case& c : kCases) run(static_cast<BitCoder>(coder), c, &random, &whole, &wrong);
    std::printf("coder %d whole %d damaged but read %d\n", coder, whole, wrong);
  }
  return 0;
}
