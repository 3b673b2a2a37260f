// gather and add_at of dense_kernels.h on the vectors `Lanes` of one instruction set.

#include "codec/words.inl"

namespace sparsefl::codec {
namespace {

// Up to this many set bits of a word of 64 are walked one by one; from there on whole vectors of
// positions are cheaper: at a density of 0.06 every cache line holds one.
constexpr unsigned kWalked = 4;

void gather(const float* x, const uint8_t* bits, size_t n, float* values, size_t count) {
  size_t done = 0;
  for (size_t i = 0; i < n && done < count; i += 64) {
    uint64_t word = load_some(bits + i / 8, (n - i + 7) / 8);
    const unsigned set = Lanes::count(word);
    if (set > kWalked && i + 64 <= n && done + set + kAppendSlack <= count) {
#pragma GCC unroll 8
      for (size_t j = 0; j < 64; j += Lanes::kLanes) {
        const uint64_t m = word >> j & Lanes::kAll;
        Lanes::append(x + i + j, m, values + done);
        done += Lanes::count(m);
      }
      continue;
    }
    for (; word != 0 && done < count; word &= word - 1) {
      values[done++] = x[i + static_cast<size_t>(__builtin_ctzll(word))];
    }
  }
}

void add_at(float* model, const uint8_t* bits, size_t n, const float* values, size_t count,
            float weight) {
  size_t done = 0;
  for (size_t i = 0; i < n && done < count; i += 64) {
    uint64_t word = load_some(bits + i / 8, (n - i + 7) / 8);
    const unsigned set = Lanes::count(word);
    if (set > kWalked && i + 64 <= n && done + set + kAppendSlack <= count) {
#pragma GCC unroll 8
      for (size_t j = 0; j < 64; j += Lanes::kLanes) {
        const uint64_t m = word >> j & Lanes::kAll;
        Lanes::add_expanded(model + i + j, m, values + done, weight);
        done += Lanes::count(m);
      }
      continue;
    }
    for (; word != 0 && done < count; word &= word - 1, ++done) {
      float* to = model + i + static_cast<size_t>(__builtin_ctzll(word));
      *to = __builtin_fmaf(weight, values[done], *to);
    }
  }
}

}  // namespace
}  // namespace sparsefl::codec
