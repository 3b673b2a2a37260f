// Runs the CUDA kernels for bitmaps, signs, votes and the largest elements in an emulation, on
// awkward sizes, against the codec's own functions, bit for bit. Prints how many were compared;
// exits with 1 at the first difference.
#include "cuda/packing.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <vector>

#include "codec/dense_kernels.h"
#include "codec/top_k.h"
#include "cuda/bit_words.h"
#include "cuda/magnitudes.h"
#include "cuda/votes.h"
#include "expect.h"
#include "random.h"

namespace sparsefl {
namespace codec {

// Those of other instruction sets give the same bits and take long to compile.
extern const DenseKernels kDenseAvx2{}, kDenseAvx512{};

}  // namespace codec

namespace {

const codec::DenseKernels& kernels = codec::dense_kernels(Isa::kScalar);
Random draws(1);

void report(const char* what) {
  std::printf("%s %" PRId64 "\n", what, compared);
  compared = 0;
}

// Of exactly its size and poisoned, from a multiple of 16 bytes plus `offset` elements on.
template <class T>
class Memory {
 public:
  explicit Memory(int64_t n, int64_t offset = 0)
      : n_(n),
        memory_(static_cast<T*>(::operator new((n + offset) * sizeof(T), std::align_val_t{16}))),
        first_(memory_.get() + offset) {
    std::memset(memory_.get(), 0xA5, (n + offset) * sizeof(T));
  }
  T* get() const { return first_; }
  int64_t size() const { return n_; }
  T& operator[](int64_t i) const { return first_[i]; }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t{16}); }
  };
  int64_t n_;
  std::unique_ptr<T, Free> memory_;
  T* first_;
};

template <class T>
bool equal(const T* a, const T* b, int64_t n) {
  return n == 0 || std::memcmp(a, b, n * sizeof(T)) == 0;
}

// Tensors of an arena. One alone has no table.
struct Tensors {
  std::vector<int64_t> sizes, elements{0}, blocks{0};

  explicit Tensors(std::vector<int64_t> all) : sizes(std::move(all)) {
    for (const int64_t n : sizes) {
      elements.push_back(elements.back() + n);
      blocks.push_back(blocks.back() + (n + kBlockPositions - 1) / kBlockPositions);
    }
  }
  Arena arena() const {
    const bool alone = sizes.size() == 1;
    return {alone ? nullptr : elements.data(), alone ? nullptr : blocks.data(),
            static_cast<int64_t>(sizes.size()), elements.back(), blocks.back()};
  }
  // Writes the bitmap of every tensor where the arena has it, zeros between.
  template <class Write>
  void pack(uint32_t* bits, const Write& write) const {
    std::memset(bits, 0, blocks.back() * kBlockWords * sizeof(*bits));
    for (size_t t = 0; t < sizes.size(); ++t) {
      write(elements[t], sizes[t], reinterpret_cast<uint8_t*>(bits + blocks[t] * kBlockWords));
    }
  }
};

// Few magnitudes, zeros of both signs, denormals and infinities, so that equal ones meet.
Memory<float> numbers(int64_t n, int64_t offset, uint64_t magnitudes) {
  Memory<float> x(n, offset);
  for (int64_t i = 0; i < n; ++i) {
    const auto drawn = static_cast<int32_t>(draws.below(2 * magnitudes)) - int64_t(magnitudes);
    x[i] = static_cast<float>(drawn) / 64;
    if (draws.below(50) == 0) x[i] = -0.0f;
    if (draws.below(50) == 0) x[i] = -std::numeric_limits<float>::denorm_min();
    if (draws.below(200) == 0) x[i] = std::numeric_limits<float>::infinity();
  }
  return x;
}

Memory<uint32_t> bitmap(const Tensors& tensors, uint32_t percent) {
  Memory<uint32_t> bits(tensors.blocks.back() * kBlockWords);
  tensors.pack(bits.get(), [&](int64_t, int64_t n, uint8_t* out) {
    for (int64_t i = 0; i < n; ++i) {
      out[i / 8] = static_cast<uint8_t>(out[i / 8] | (draws.below(100) < percent) << i % 8);
    }
  });
  return bits;
}

void check_words() {
  uint32_t words[32], moved[32];
  for (uint32_t& word : words) word = draws.next();
  std::memcpy(moved, words, sizeof(words));
  for (int step = 0; step < kTransposeSteps; ++step) {
    uint32_t before[32];
    std::memcpy(before, moved, sizeof(moved));
    for (int lane = 0; lane < 32; ++lane) {
      moved[lane] = transpose_step(before[lane], before[lane ^ 1 << step], step, lane);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    expect(lane_of_word(transposed_word(lane)) == lane, "host", "lane_of_word");
    for (int bit = 0; bit < 32; ++bit) {
      // Bit 4 * j + t of a lane is that of the element t after the first of load j.
      const int position = loaded_position(bit / 4, lane) + bit % 4;
      const uint32_t word = moved[lane_of_word(position / 32)];
      expect((word >> position % 32 & 1) == (words[lane] >> bit & 1), "host", "transpose_step");
      ++compared;
    }
  }
  for (const int positions : {1, 31, 32, 33, 1023, 1024}) {
    int valid = 0;
    for (int word = 0; word < kBlockWords; ++word) valid += count_bits(valid_bits(positions, word));
    expect(valid == positions, "host", "valid_bits");
  }
  report("words");
}

void check_digits() {
  for (int i = 0; i < 2000; ++i) {
    const uint32_t key = magnitude_key(draws.next());
    Search search{0, 1};
    for (int digit = 0; digit < kDigits; ++digit) {
      expect(has_prefix(key, digit, search), "host", "has_prefix");
      expect(digit_of(key, digit) < kBins, "host", "digit_of");
      search = narrowed(search, digit, static_cast<int>(digit_of(key, digit)), 0);
    }
    expect(search.prefix == key, "host", "narrowed");
    float value;
    const uint32_t bits = draws.next();
    std::memcpy(&value, &bits, sizeof(value));
    expect((magnitude_key(bits) > kInfinity) == (value != value), "host", "magnitude_key");
    if (value == value) expect(is_negative(bits) == (value < 0), "host", "is_negative");
    ++compared;
  }
  report("digits");
}

void check_signs(const Tensors& tensors, int64_t offset) {
  const Arena arena = tensors.arena();
  const Memory<float> x = numbers(arena.numel, offset, 100);
  Memory<uint32_t> expected(arena.blocks * kBlockWords), bits(arena.blocks * kBlockWords);
  tensors.pack(expected.get(), [&](int64_t first, int64_t n, uint8_t* out) {
    expect(kernels.pack_signs(x.get() + first, n, out), "codec", "pack_signs");
  });
  int32_t found_nan = 0;
  sign_pack(x.get(), arena, bits.get(), &found_nan, nullptr);
  expect(equal(bits.get(), expected.get(), bits.size()) && found_nan == 0, "emulated", "sign_pack");

  Memory<float> out(arena.numel, offset), by_codec(arena.numel);
  sign_unpack(bits.get(), arena, -0.3f, out.get(), nullptr);
  for (size_t t = 0; t < tensors.sizes.size(); ++t) {
    const auto* from = reinterpret_cast<uint8_t*>(bits.get() + tensors.blocks[t] * kBlockWords);
    float* to = by_codec.get() + tensors.elements[t];
    kernels.unpack_signs(from, tensors.sizes[t], -0.3f, false, to);
  }
  expect(equal(out.get(), by_codec.get(), arena.numel), "emulated", "sign_unpack");
  if (arena.numel > 0) {
    x[draws.below(arena.numel)] = std::bit_cast<float>(0xFF800001);
    sign_pack(x.get(), arena, bits.get(), &found_nan, nullptr);
    expect(found_nan == 1, "emulated", "found_nan");
  }
  ++compared;
}

void check_bitmap(const Tensors& tensors, int64_t offset, uint32_t percent) {
  const Arena arena = tensors.arena();
  const Memory<float> x = numbers(arena.numel, offset, 100);
  const Memory<uint32_t> bits = bitmap(tensors, percent);
  Memory<int64_t> prefix(arena.blocks + 1), scratch(scan_scratch(arena.blocks));
  bitmap_plan(bits.get(), arena, prefix.get(), scratch.get(), nullptr);
  int64_t count = 0;
  for (int64_t b = 0; b < arena.blocks; ++b) {
    expect(prefix[b] == count, "emulated", "bitmap_plan");
    for (int w = 0; w < kBlockWords; ++w) count += std::popcount(bits[b * kBlockWords + w]);
  }
  expect(prefix[arena.blocks] == count, "emulated", "bitmap_plan");

  Memory<float> values(count), expected(count), out(arena.numel, offset);
  Memory<float> model = numbers(arena.numel, offset, 1000), added(arena.numel);
  std::memcpy(added.get(), model.get(), arena.numel * sizeof(float));
  const Positions positions{bits.get(), prefix.get(), count};
  bitmap_gather(x.get(), arena, positions, values.get(), nullptr);
  bitmap_scatter(values.get(), arena, positions, out.get(), nullptr);
  bitmap_add(model.get(), arena, positions, values.get(), 0.3f, nullptr);
  int64_t done = 0;
  for (size_t t = 0; t < tensors.sizes.size(); ++t) {
    const int64_t first = tensors.elements[t], n = tensors.sizes[t];
    const auto* own = reinterpret_cast<uint8_t*>(bits.get() + tensors.blocks[t] * kBlockWords);
    const int64_t set = prefix[tensors.blocks[t + 1]] - prefix[tensors.blocks[t]];
    kernels.gather(x.get() + first, own, n, expected.get() + done, set);
    kernels.add_at(added.get() + first, own, n, expected.get() + done, set, 0.3f);
    for (int64_t i = 0; i < n; ++i) {
      const bool kept = (own[i / 8] >> i % 8 & 1) != 0;
      const float element = kept ? x[first + i] : 0.0f;
      expect(equal(&out[first + i], &element, 1), "emulated", "bitmap_scatter");
    }
    done += set;
  }
  expect(equal(values.get(), expected.get(), count), "emulated", "bitmap_gather");
  expect(equal(model.get(), added.get(), arena.numel), "emulated", "bitmap_add");
  ++compared;
}

void check_votes(int64_t n, int64_t clients, int64_t stride, int64_t offset) {
  const Memory<uint8_t> packed(clients * stride, offset);
  std::vector<const uint8_t*> rows;
  for (int64_t c = 0; c < clients; ++c) {
    rows.push_back(packed.get() + c * stride);
    for (int64_t i = 0; i < stride; ++i)
      packed[c * stride + i] = static_cast<uint8_t>(draws.next());
  }
  const int64_t words = (n + 31) / 32, bytes = (n + 7) / 8;
  for (const int64_t least : {clients / 2 + 1, int64_t{1}, clients}) {
    Memory<uint32_t> negative(words), tied(words);
    Memory<uint8_t> expected(bytes), expected_tied(bytes);
    kernels.vote({rows.data(), static_cast<size_t>(clients), static_cast<size_t>(n)},
                 static_cast<size_t>(least), expected.get(), expected_tied.get());
    const Ballots ballots{packed.get(), clients, stride, n};
    majority_vote(ballots, least, negative.get(), tied.get(), nullptr);
    const auto matches = [&](const Memory<uint32_t>& a, const Memory<uint8_t>& b) {
      const auto* all = reinterpret_cast<uint8_t*>(a.get());
      return equal(all, b.get(), bytes) &&
             std::all_of(all + bytes, all + 4 * words, [](uint8_t byte) { return byte == 0; });
    };
    expect(matches(negative, expected) && matches(tied, expected_tied), "emulated", "vote");
    majority_vote(ballots, least, negative.get(), nullptr, nullptr);
    expect(matches(negative, expected), "emulated", "vote without ties");
    ++compared;
  }
}

void check_top_k(const Tensors& tensors, int64_t offset, uint64_t magnitudes) {
  const Arena arena = tensors.arena();
  const Memory<float> x = numbers(arena.numel, offset, magnitudes);
  for (const int64_t k :
       {int64_t{0}, int64_t{1}, arena.numel / 100, arena.numel / 2, arena.numel}) {
    if (k > arena.numel) continue;
    Memory<uint32_t> bits(arena.blocks * kBlockWords), expected(arena.blocks * kBlockWords);
    Memory<int64_t> prefix(arena.blocks + 1);
    Memory<float> values(k), by_codec(codec::top_k_capacity(arena.numel, k));
    Memory<uint8_t> scratch(top_k_scratch(arena.blocks));
    int32_t found_nan = 0;
    top_k(x.get(), arena, k, bits.get(), prefix.get(), values.get(), &found_nan, scratch.get(),
          nullptr);
    std::vector<codec::TopKPart> parts;
    tensors.pack(expected.get(), [&](int64_t first, int64_t n, uint8_t* out) {
      parts.push_back({x.get() + first, static_cast<size_t>(n), out});
    });
    expect(codec::top_k(parts, k, by_codec.get(), Isa::kScalar), "codec", "top_k");
    expect(equal(bits.get(), expected.get(), bits.size()), "emulated", "top_k's bits");
    expect(equal(values.get(), by_codec.get(), k), "emulated", "top_k's values");
    expect(prefix[arena.blocks] == k && found_nan == 0, "emulated", "top_k's count");
    for (size_t t = 0; t < parts.size(); ++t) {
      const auto count = static_cast<int64_t>(parts[t].count);
      expect(prefix[tensors.blocks[t + 1]] - prefix[tensors.blocks[t]] == count, "emulated",
             "top_k's plan");
    }
    ++compared;
  }
}

}  // namespace
}  // namespace sparsefl

int main() {
  using namespace sparsefl;
  check_words();
  check_digits();
  std::vector<Tensors> arenas;
  for (const int64_t n : {0, 1, 31, 1023, 1024, 1025}) arenas.emplace_back(std::vector{n});
  arenas.emplace_back(std::vector<int64_t>{0, 5, 0, 0, 1024, 2049, 1, 4, 0});
  for (const Tensors& tensors : arenas) {
    for (const int64_t offset : {0, 1}) check_signs(tensors, offset);
  }
  report("signs");
  for (const Tensors& tensors : arenas) {
    for (const uint32_t percent : {0u, 1u, 40u, 100u}) check_bitmap(tensors, percent % 3, percent);
  }
  // More than a chunk of blocks.
  check_bitmap(Tensors(std::vector<int64_t>(1100, 1)), 0, 50);
  report("bitmap");
  for (const int64_t n : {1, 31, 127, 129, 1025}) {
    for (const int64_t clients : {1, 2, 7, 255}) {
      check_votes(n, clients, (n + 127) / 128 * 16, 0);
      check_votes(n, clients, (n + 7) / 8, 1);
    }
  }
  check_votes(200, 256, 32, 0);
  check_votes(200, 700, 25, 0);
  report("votes");
  for (const Tensors& tensors : arenas) {
    for (const uint64_t magnitudes : {1, 40}) check_top_k(tensors, 1, magnitudes);
  }
  check_top_k(Tensors({3000}), 0, 1000000);
  report("top_k");
  return 0;
}
