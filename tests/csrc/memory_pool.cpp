// Lends and takes back at random, on several threads: what is lent is nobody else's, freed
// neighbours become one, and little more lies in memory than was lent at once of late. Prints the
// calls a check made; exits with 1 at the first surprise.
#include "cpu/memory_pool.h"

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "parts.h"

namespace sparsefl {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr int64_t kReserve = 1024 * kMiB;
// More calls than those after which an earlier peak is forgotten.
constexpr int64_t kManyCalls = 3000;

void expect(bool holds, const char* what) {
  if (holds) return;
  std::printf("not so: %s\n", what);
  std::exit(1);
}

int64_t held(MemoryPool& pool) {
  const MemoryPool::Counts counts = pool.counts();
  return counts.lent_bytes + counts.kept_bytes;
}

int64_t most_held(int64_t peak_bytes) { return peak_bytes + peak_bytes / 16 + kMiB; }

struct Block {
  unsigned char* memory;
  int64_t bytes;
  unsigned char stamp;

  void check() const {
    for (int64_t i = 0; i < bytes; i += 4096) expect(memory[i] == stamp, "a block is one's own");
    expect(memory[bytes - 1] == stamp, "a block is one's own to its end");
  }
};

Block lend(MemoryPool& pool, int64_t bytes, unsigned char stamp) {
  auto* memory = static_cast<unsigned char*>(pool.lend(bytes));
  expect(memory != nullptr, "there are addresses");
  expect(reinterpret_cast<uintptr_t>(memory) % 64 == 0, "a block is aligned");
  for (int64_t i = 0; i < bytes; i += 4096) memory[i] = stamp;
  memory[bytes - 1] = stamp;
  return {memory, bytes, stamp};
}

void check_random_calls() {
  MemoryPool pool(kReserve);
  constexpr int64_t kThreads = 3, kCalls = 2000;
  for_parts(kThreads, [&](int64_t part) {
    std::mt19937 random(static_cast<unsigned>(part));
    std::vector<Block> blocks;
    for (int64_t call = 0; call < kCalls; ++call) {
      if (blocks.size() < 2 || (blocks.size() < 20 && random() % 2 == 0)) {
        const int64_t bytes = 1 + static_cast<int64_t>(random() % (kMiB << random() % 3));
        blocks.push_back(lend(pool, bytes, static_cast<unsigned char>(1 + random() % 255)));
      } else {
        std::swap(blocks[random() % blocks.size()], blocks.back());
        blocks.back().check();
        pool.take_back(blocks.back().memory);
        blocks.pop_back();
      }
      expect(held(pool) <= most_held(pool.counts().peak_bytes),
             "little more is held than was lent");
    }
    for (const Block& block : blocks) {
      block.check();
      pool.take_back(block.memory);
    }
  });
  expect(pool.counts().lent_bytes == 0, "all is back");
  std::printf("random %" PRId64 "\n", kThreads * kCalls);
}

// Activations, small ones last, freed in reverse with three gradients at a time of their size.
int64_t step(MemoryPool& pool) {
  std::vector<Block> kept;
  int64_t calls = 0;
  for (const int64_t size : {16, 8, 4, 2, 1}) {
    for (int64_t i = 0; i < 5; ++i) kept.push_back(lend(pool, size * kMiB, 7));
  }
  for (; !kept.empty(); kept.pop_back()) {
    Block gradients[3];
    for (Block& gradient : gradients) gradient = lend(pool, kept.back().bytes, 9);
    for (const Block& gradient : gradients) pool.take_back(gradient.memory);
    kept.back().check();
    pool.take_back(kept.back().memory);
    calls += 4;
  }
  return calls;
}

void check_steps() {
  MemoryPool pool(kReserve);
  int64_t calls = step(pool);
  const int64_t peak = pool.counts().peak_bytes;
  expect(pool.counts().fresh_bytes == peak, "a step takes no more pages than it holds at once");
  for (int64_t i = 0; i < 3; ++i) calls += step(pool);
  expect(pool.counts().fresh_bytes == peak, "later steps take none");
  expect(held(pool) == peak, "they stay in memory");
  std::printf("steps %" PRId64 "\n", calls);
}

void check_forgetting() {
  MemoryPool pool(kReserve);
  pool.take_back(lend(pool, 100 * kMiB, 1).memory);
  expect(held(pool) == 100 * kMiB, "freed memory is kept");
  for (int64_t call = 0; call < kManyCalls; ++call) pool.take_back(lend(pool, kMiB, 1).memory);
  expect(held(pool) == kMiB + kMiB / 16, "what has not been used of late goes back");
  std::printf("forgetting %" PRId64 "\n", kManyCalls);
}

void check_release() {
  MemoryPool pool(kReserve);
  const Block first = lend(pool, kMiB, 1), second = lend(pool, kMiB, 2);
  pool.take_back(first.memory);
  pool.release();
  expect(held(pool) == kMiB, "what is kept goes back");
  second.check();
  const auto* again = static_cast<unsigned char*>(pool.lend(kMiB));
  expect(again == first.memory && again[0] == 0, "the system has had it");
  expect(pool.lend(2 * kReserve) == nullptr, "there are no such addresses");
  pool.forget_peak();
  expect(pool.counts().peak_bytes == 2 * kMiB, "the peak is counted from now");
  std::printf("release 4\n");
}

void check_without_addresses() {
  MemoryPool pool(0);
  expect(pool.lend(1) == nullptr, "it lends nothing");
  std::printf("none 1\n");
}

}  // namespace
}  // namespace sparsefl

int main() {
  sparsefl::check_random_calls();
  sparsefl::check_steps();
  sparsefl::check_forgetting();
  sparsefl::check_release();
  sparsefl::check_without_addresses();
  return 0;
}
