// Feeds whole and damaged value sections to the codec, every buffer on the heap and of the exact
// size, and prints what became of them.

#include "codec/values.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <vector>

#include "random.h"

namespace {

using namespace sparsefl::codec;
using sparsefl::Random;

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
    {"int64", ValueMode::kRaw, Dtype::kInt64, 0},
    {"bool", ValueMode::kRaw, Dtype::kBool, 0},
};
constexpr size_t kCounts[] = {1, 2, 5, 63, 64, 65, 326, 1025, 5443, 20011};

using Buffer = std::unique_ptr<uint8_t[]>;

Buffer make_values(const Kind& kind, size_t n, Random* random) {
  const size_t item = memory_item_bytes(kind.mode, kind.dtype);
  Buffer out(new uint8_t[n * item]());
  for (size_t i = 0; i < n; ++i) {
    if (item == 4)
      store(out.get() + 4 * i, static_cast<float>(random->below(64)) / 8.0f - 4.0f);
    else
      out[i * item] = static_cast<uint8_t>(random->below(2));
  }
  return out;
}

Reason decode(const Kind& kind, uint8_t coder, const uint8_t* data, size_t bytes, size_t n) {
  Buffer section(new uint8_t[bytes]);
  std::copy(data, data + bytes, section.get());
  Buffer values(new uint8_t[n * memory_item_bytes(kind.mode, kind.dtype)]);
  ValueScratch scratch;
  return read_values({kind.mode, kind.dtype, kind.block_log2, coder, section.get(), bytes, n},
                     &scratch, values.get());
}

void damage(const Kind& kind, const std::vector<uint8_t>& whole, uint8_t coder, size_t n,
            Random* random, std::map<int, int>* reasons) {
  for (int round = 0; round < 300; ++round) {
    std::vector<uint8_t> data = whole;
    if (random->below(4) == 0) data.resize(random->below(data.size() + 9));
    for (uint32_t k = random->below(4); k != 0 && !data.empty(); --k) {
      // Heads and tables are at the front.
      const size_t end = random->below(2) ? std::min<size_t>(data.size(), 48) : data.size();
      data[random->below(end)] = static_cast<uint8_t>(random->next());
    }
    if (random->below(16) == 0) coder = static_cast<uint8_t>(random->below(3));
    const size_t count = random->below(8) ? n : random->below(2 * n + 1);
    ++(*reasons)[static_cast<int>(decode(kind, coder, data.data(), data.size(), count))];
  }
}

}  // namespace

int main() {
  Random random(1);
  for (const Kind& kind : kKinds) {
    int whole = 0, cut = 0, cuts = 0;
    std::map<int, int> reasons;
    for (const size_t n : kCounts) {
      const Buffer values = make_values(kind, n, &random);
      const Draws draws = {7, 8, 123456789};
      for (const Profile profile : {Profile::kPlain, Profile::kRans}) {
        for (const Draws* rounding : {static_cast<const Draws*>(nullptr), &draws}) {
          ValueScratch scratch;
          std::vector<uint8_t> out;
          ValueCoder coder;
          if (!append_values({kind.mode, kind.dtype, kind.block_log2, values.get(), n, rounding},
                             profile, &scratch, &out, &coder))
            std::abort();
          const auto number = static_cast<uint8_t>(coder);
          whole += decode(kind, number, out.data(), out.size(), n) == Reason::kNone;
          for (size_t bytes = 0; bytes < out.size(); bytes += out.size() / 64 + 1, ++cuts)
            cut += decode(kind, number, out.data(), bytes, n) != Reason::kNone;
          damage(kind, out, number, n, &random, &reasons);
        }
      }
    }
    std::printf("%s whole %d of %zu cut %d of %d damaged", kind.name, whole, 4 * std::size(kCounts),
                cut, cuts);
    for (const auto& [reason, times] : reasons) std::printf(" %d:%d", reason, times);
    std::printf("\n");
  }
  return 0;
}
