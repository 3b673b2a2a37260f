// Sections of messages by every coder, whether an encoder would choose it or not: prints a checksum
// of each coder's codes, all of which are read back.

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "codec/bit_code.h"
#include "codec/bits.h"
#include "codec/byte_code.h"
#include "codec/crc32c.h"
#include "codec/values.h"
#include "random.h"

namespace {

using namespace sparsefl::codec;
using sparsefl::Random;
using Bytes = std::vector<uint8_t>;

void require(bool holds, const char* what) {
  if (holds) return;
  std::printf("%s came back wrong\n", what);
  std::exit(1);
}

uint32_t checksum(const Bytes& bytes, uint32_t before) {
  return crc32c(bytes.data(), bytes.size(), before);
}

// Rows of densities from few to all, tiles, far positions.
Bytes draw_bits(int kind, size_t n, size_t row, Random* random) {
  Bytes bits((n + 7) / 8);
  for (size_t i = 0; i < n; ++i) {
    const auto place = static_cast<uint32_t>(i / row);
    bool set = random->below(1000) < 100;
    if (kind == 1) set = random->below(256) < (place * 37 & 255);
    if (kind == 2) set = ((i / row / 16 * 5 + i % row / 16) * 2654435761u >> 30 & 3) == 0;
    if (kind == 3) set = i < 99 || i % 70001 == 5;
    if (set) bits[i / 8] |= static_cast<uint8_t>(1u << (i % 8));
  }
  return bits;
}

void run_bits() {
  constexpr size_t kRow = 128;
  for (int coder = 0; coder < 6; ++coder) {
    uint32_t sum = 0;
    size_t codes = 0;
    Random random(1);
    for (int kind = 0; kind < 4; ++kind) {
      for (const size_t rows : {4, 33, 1100}) {
        const size_t n = rows * kRow;
        const Bytes bits = draw_bits(kind, n, kRow, &random);
        const size_t count = popcount(bits.data(), bits.size());
        const auto as = static_cast<BitCoder>(coder);
        Scratch scratch;
        Bytes code, back(bits.size());
        if (!append_bit_code_as(as, bits.data(), n, count, kRow, Profile::kRans, &scratch, &code))
          continue;
        require(read_bit_code(as, code.data(), code.size(), n, count, kRow, Profile::kRans,
                              &scratch, back.data()) == Reason::kNone &&
                    back == bits,
                "a bit code");
        sum = checksum(code, sum);
        ++codes;
      }
    }
    std::printf("bits %d codes %zu crc32c %08x\n", coder, codes, sum);
  }
}

uint8_t draw_symbol(int kind, Random* random) {
  const auto small = static_cast<uint32_t>(std::countr_zero(random->next() | 1u << 31));
  if (kind == 0) return static_cast<uint8_t>(random->below(3));
  if (kind == 1) return static_cast<uint8_t>(random->below(200));
  if (kind == 2) return static_cast<uint8_t>(3 * small + random->below(3));
  return static_cast<uint8_t>(random->below(2000) == 0 ? random->next() : 100 + small);
}

void run_bytes() {
  for (int lanes_log2 = 0; lanes_log2 <= 6; ++lanes_log2) {
    uint32_t sum = 0;
    Random random(2);
    for (int kind = 0; kind < 4; ++kind) {
      for (const size_t n : {700, 5000, 40009}) {
        Bytes symbols(n), code, back(n);
        for (uint8_t& s : symbols) s = draw_symbol(kind, &random);
        uint32_t counts[256] = {};
        count_bytes(symbols.data(), n, counts);
        ByteModel model = choose_byte_model(counts, n, Profile::kRans);
        model.lanes = size_t{1} << lanes_log2;
        append_byte_code(symbols.data(), n, model, &code);
        size_t used = 0;
        require(read_byte_code(code.data(), code.size(), n, Profile::kRans, back.data(), &used) ==
                        Reason::kNone &&
                    used == code.size() && back == symbols,
                "a byte code");
        sum = checksum(code, sum);
      }
    }
    std::printf("bytes lanes %d crc32c %08x\n", 1 << lanes_log2, sum);
  }
}

struct Kind {
  const char* name;
  ValueMode mode;
  Dtype dtype;
  uint8_t block_log2;
};

constexpr Kind kKinds[] = {
    {"fp32", ValueMode::kFp32, Dtype::kFloat32, 0},
    {"bf16", ValueMode::kBf16, Dtype::kFloat32, 0},
    {"int8", ValueMode::kInt8, Dtype::kFloat32, 10},
    {"int4", ValueMode::kInt4, Dtype::kFloat32, 6},
    {"ternary", ValueMode::kTernary, Dtype::kFloat32, 10},
    {"float16", ValueMode::kRaw, Dtype::kFloat16, 0},
    {"float64", ValueMode::kRaw, Dtype::kFloat64, 0},
    {"int64", ValueMode::kRaw, Dtype::kInt64, 0},
    {"modular", ValueMode::kModular, Dtype::kFloat32, 0},
};

// Finite values of many exponents.
Bytes draw_values(const Kind& kind, size_t n, Random* random) {
  const size_t item = memory_item_bytes(kind.mode, kind.dtype);
  Bytes out(n * item);
  for (size_t i = 0; i < n; ++i) {
    const uint32_t word = random->next();
    const uint32_t spread = static_cast<uint32_t>(std::countr_zero(word | 1u << 31)) % 24;
    uint8_t* to = out.data() + i * item;
    store(to, static_cast<uint16_t>(word & 0xBFFF));
    if (item == 4) store(to, (word & 0x807FFFFF) | (120 - spread) << 23);
    if (item == 8) store(to, uint64_t{word & 0x800FFFFF} << 32 | uint64_t{1000 - spread} << 52);
  }
  return out;
}

// `classes`: by classes wherever the format allows.
void run_values(bool classes) {
  for (const Kind& kind : kKinds) {
    uint32_t sections = 0, values = 0;
    Random random(3);
    for (const size_t n : {1, 63, 326, 1025, 20011}) {
      const Bytes source = draw_values(kind, n, &random);
      const Draws draws = {7, 8, 123456789};
      for (const Profile profile : {Profile::kPlain, Profile::kRans}) {
        for (const Draws* rounding : {static_cast<const Draws*>(nullptr), &draws}) {
          ValueScratch scratch;
          ValueCoder coder;
          Bytes section, back(source.size());
          require(append_values(
                      {kind.mode, kind.dtype, kind.block_log2, source.data(), n, rounding, classes},
                      profile, &scratch, &section, &coder),
                  kind.name);
          require(read_values({kind.mode, kind.dtype, kind.block_log2, static_cast<uint8_t>(coder),
                               section.data(), section.size(), n},
                              &scratch, back.data()) == Reason::kNone,
                  kind.name);
          sections = checksum(section, sections);
          values = checksum(back, values);
        }
      }
    }
    std::printf("%s%s sections %08x values %08x\n", kind.name, classes ? " by classes" : "",
                sections, values);
  }
}

}  // namespace

int main() {
  run_bits();
  run_bytes();
  run_values(false);
  run_values(true);
  return 0;
}
