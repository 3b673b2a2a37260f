// Byte codes of awkward sizes and what becomes of damaged ones.
//
// Every buffer is on the heap and of the exact size, so that an address sanitizer sees one byte too
// far.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "codec/byte_code.h"
#include "random.h"

namespace {

using namespace sparsefl::codec;
using sparsefl::Random;

std::vector<uint8_t> code_of(const std::vector<uint8_t>& symbols) {
  std::vector<uint8_t> code;
  append_byte_code(symbols.data(), symbols.size(), Profile::kRans, &code);
  return code;
}

// Reads from and to memory of the exact size.
Reason read(const uint8_t* data, size_t bytes, size_t n, std::vector<uint8_t>* symbols,
            size_t* used) {
  const std::unique_ptr<uint8_t[]> exact(new uint8_t[bytes]);
  std::copy(data, data + bytes, exact.get());
  const std::unique_ptr<uint8_t[]> out(new uint8_t[n]());
  const Reason reason = read_byte_code(exact.get(), bytes, n, Profile::kRans, out.get(), used);
  if (reason == Reason::kNone && *used > bytes) std::abort();
  symbols->assign(out.get(), out.get() + n);
  return reason;
}

// Symbols of few values, many, numbers that die away, and these with rare others.
std::vector<uint8_t> make_symbols(int kind, size_t n, Random* random) {
  std::vector<uint8_t> symbols(n);
  for (uint8_t& s : symbols) {
    const uint32_t word = random->next() | 1u << 31;
    const auto small = static_cast<uint32_t>(__builtin_ctz(word));
    if (kind == 0) s = static_cast<uint8_t>(random->below(3));
    if (kind == 1) s = static_cast<uint8_t>(random->below(200));
    if (kind == 2) s = static_cast<uint8_t>(3 * small + random->below(3));
    if (kind == 3)
      s = static_cast<uint8_t>(random->below(2000) == 0 ? random->next() : 100 + small);
  }
  return symbols;
}

int refused = 0, kept = 0;

void damage(const std::vector<uint8_t>& code, size_t n, Random* random) {
  std::vector<uint8_t> symbols;
  size_t used = 0;
  const size_t step = n < 600 ? 1 : code.size() / 40;
  for (size_t cut = 0; cut < code.size(); cut += step) {
    if (read(code.data(), cut, n, &symbols, &used) == Reason::kNone) std::abort();
    ++refused;
  }
  // Any byte of a raw or repeated code is as good as another.
  if (n == 0 || (code[0] & 3) < 2) return;
  for (size_t at = 0; at < code.size(); at += step) {
    std::vector<uint8_t> other = code;
    other[at] ^= static_cast<uint8_t>(1u << random->below(8));
    if (random->below(4) == 0) other[random->below(40) % other.size()] ^= 1 + random->below(255);
    ++(read(other.data(), other.size(), n, &symbols, &used) == Reason::kNone ? kept : refused);
  }
}

}  // namespace

int main() {
  Random random(1);
  for (int kind = 0; kind < 4; ++kind) {
    for (const size_t n : {0, 1, 2, 31, 32, 33, 63, 64, 65, 500, 5000, 65537, 131103}) {
      const std::vector<uint8_t> symbols = make_symbols(kind, n, &random);
      const std::vector<uint8_t> code = code_of(symbols);
      std::vector<uint8_t> back;
      size_t used = 0;
      if (read(code.data(), code.size(), n, &back, &used) != Reason::kNone || back != symbols ||
          used != code.size()) {
        std::fprintf(stderr, "kind %d of %zu symbols came back wrong\n", kind, n);
        return 1;
      }
      damage(code, n, &random);
    }
  }
  std::printf("refused %d kept %d\n", refused, kept);
  return 0;
}
