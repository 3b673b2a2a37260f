// Feeds damaged messages to the codec: a program for where libFuzzer is not.
//
//   fuzz_messages FOLDER [--seconds N] [--runs N] [--seed N]
//   fuzz_messages FOLDER --make
//
// FOLDER is the corpus. Checks that each of its messages is accepted, that none is when it is cut
// or one of its bits is another, and then mutations of them. Prints executions and what became of
// them. A case that breaks a promise lies in the file "crash" of the working directory afterwards;
// given alone as a FILE in FOLDER's place it runs again. --make writes the corpus.

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "fuzz/case.h"
#include "fuzz/make.h"
#include "fuzz/mutate.h"
#include "fuzz/oracle.h"

namespace {

using namespace sparsefl::fuzz;
using sparsefl::codec::Reason;
namespace fs = std::filesystem;

constexpr size_t kReasons = 64, kCoders = 16;
// Steps from a case of the corpus; accepted ones go on.
constexpr int kSteps = 12;
// Larger cases take the time of hundreds of small ones.
constexpr size_t kSmallBytes = 4096, kSmallPositions = 1 << 15;

bool is_small(const Case& c) {
  return c.message.size() <= kSmallBytes && positions_of(c) <= kSmallPositions;
}

const Case* running = nullptr;

void keep_case() {
  if (running == nullptr) return;
  const Bytes file = store_case(*running);
  running = nullptr;
  std::ofstream("crash", std::ios::binary)
      .write(reinterpret_cast<const char*>(file.data()), static_cast<std::streamsize>(file.size()));
}

struct Totals {
  size_t executions = 0;
  std::array<size_t, kReasons> reasons{};
  // Chunks of accepted messages by coder.
  std::array<size_t, kCoders> supports{}, signs{}, values{};

  void count(const Verdict& v) {
    ++executions;
    ++reasons[static_cast<size_t>(v.reason)];
    if (v.reason != Reason::kNone) return;
    for (const auto& d : v.message.descriptors) {
      for (uint32_t i = 0; i < d.chunks; ++i) {
        const auto& chunk = v.message.chunks[d.first_chunk + i];
        if (d.support == sparsefl::codec::SupportMode::kSent) ++supports[chunk.support_coder];
        ++(sparsefl::codec::is_sign(d.value) ? signs : values)[chunk.value_coder];
      }
    }
  }
};

Verdict execute(const Case& c, bool encodes, Totals* totals) {
  running = &c;
  Verdict verdict = check(c, encodes);
  running = nullptr;
  totals->count(verdict);
  return verdict;
}

std::vector<Case> load_corpus(const fs::path& from) {
  std::vector<fs::path> files;
  if (fs::is_directory(from)) {
    for (const auto& entry : fs::directory_iterator(from)) files.push_back(entry.path());
  } else {
    files.push_back(from);
  }
  std::sort(files.begin(), files.end());
  std::vector<Case> corpus;
  for (const fs::path& file : files) {
    std::ifstream in(file, std::ios::binary);
    const Bytes bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    corpus.push_back(load_case(bytes));
  }
  return corpus;
}

void write_corpus(const fs::path& to) {
  fs::create_directories(to);
  size_t number = 0;
  for (const Case& c : corpus_cases()) {
    const std::string digits = std::to_string(number++);
    const Bytes file = store_case(c);
    std::ofstream(to / (std::string(3 - std::min<size_t>(digits.size(), 3), '0') + digits),
                  std::ios::binary)
        .write(reinterpret_cast<const char*>(file.data()),
               static_cast<std::streamsize>(file.size()));
  }
}

void require_refused(const Case& c, const char* what, size_t at, Totals* totals) {
  if (execute(c, false, totals).reason != Reason::kNone) return;
  std::fprintf(stderr, "fuzz: accepted with %s %zu\n", what, at);
  running = &c;
  std::abort();
}

// Each message is sound, but not when it is cut or has another bit: all places of short ones.
void check_whole(const Case& c, size_t number, Totals* totals) {
  const Verdict verdict = execute(c, true, totals);
  if (verdict.reason != Reason::kNone) {
    std::fprintf(stderr, "fuzz: case %zu of the corpus is refused for %d\n", number,
                 static_cast<int>(verdict.reason));
    std::exit(1);
  }
  const size_t size = c.message.size();
  // Of long ones every few bits, not always the same of a byte.
  const size_t cut_step = is_small(c) ? 1 + size / 512 : size / 61;
  const size_t bit_step = is_small(c) ? 1 + size / 512 : 8 * cut_step + 1;
  Case other = c;
  for (size_t cut = 0; cut < size; cut += cut_step) {
    other.message.assign(c.message.begin(), c.message.begin() + static_cast<ptrdiff_t>(cut));
    require_refused(other, "bytes", cut, totals);
  }
  other.message = c.message;
  // The minor version and flags that are not critical may be any, behind a right checksum.
  for (size_t bit = 0; bit < 8 * size; bit += bit_step) {
    other.message[bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
    require_refused(other, "bit", bit, totals);
    other.message[bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
  }
}

size_t pick_case(const std::vector<Case>& corpus, Random* random) {
  const size_t i = random->below(corpus.size());
  return is_small(corpus[i]) || random->one_in(512) ? i : pick_case(corpus, random);
}

// One walk through changes of a case.
void walk(const std::vector<Case>& corpus, Random* random, Totals* totals) {
  Case c = corpus[pick_case(corpus, random)];
  for (int step = 0; step < kSteps; ++step) {
    Case next = c;
    mutate(&next, random);
    // Encoders take longer than decoders, which are what is tested.
    const bool accepted = execute(next, random->one_in(8), totals).reason == Reason::kNone;
    // A refused one may be a step on the way.
    if (accepted || random->one_in(8)) c = std::move(next);
  }
}

template <size_t n>
void print(const char* name, const std::array<size_t, n>& numbers) {
  std::printf("%s", name);
  for (size_t i = 0; i < n; ++i)
    if (numbers[i] != 0) std::printf(" %zu:%zu", i, numbers[i]);
  std::printf("\n");
}

long option(int argc, char** argv, const char* name, long otherwise) {
  for (int i = 2; i + 1 < argc; ++i)
    if (std::strcmp(argv[i], name) == 0) return std::atol(argv[i + 1]);
  return otherwise;
}

}  // namespace

extern "C" void __sanitizer_set_death_callback(void (*callback)()) __attribute__((weak));

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  if (argc == 3 && std::strcmp(argv[2], "--make") == 0) {
    write_corpus(argv[1]);
    return 0;
  }
  std::signal(SIGABRT, [](int) { keep_case(); });
  if (__sanitizer_set_death_callback != nullptr) __sanitizer_set_death_callback(keep_case);
  const std::vector<Case> corpus = load_corpus(argv[1]);
  Totals whole, mutated;
  if (!fs::is_directory(argv[1])) {
    std::printf("reason %d\n", static_cast<int>(execute(corpus.at(0), true, &whole).reason));
    return 0;
  }
  for (size_t i = 0; i < corpus.size(); ++i) check_whole(corpus[i], i, &whole);
  std::printf("corpus %zu cases, %zu cut or with another bit refused\n", corpus.size(),
              whole.executions - corpus.size());
  print("corpus supports", whole.supports);
  print("corpus signs", whole.signs);
  print("corpus values", whole.values);
  Random random(static_cast<uint64_t>(option(argc, argv, "--seed", 1)));
  const auto seconds = std::chrono::seconds(option(argc, argv, "--seconds", 3600));
  const auto runs = static_cast<size_t>(option(argc, argv, "--runs", 1L << 40));
  const auto begin = std::chrono::steady_clock::now();
  while (mutated.executions < runs && std::chrono::steady_clock::now() - begin < seconds)
    walk(corpus, &random, &mutated);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  std::printf("executions %zu, %.0f a second\n", mutated.executions,
              static_cast<double>(mutated.executions) / took.count());
  print("reasons", mutated.reasons);
  print("supports", mutated.supports);
  print("signs", mutated.signs);
  print("values", mutated.values);
  return 0;
}
