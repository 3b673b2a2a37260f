#include "codec/escapes.h"

#include <algorithm>

#include "codec/format.h"
#include "codec/rans_kernels.h"
#include "cpu/isa.h"

namespace sparsefl::codec {

void gather_marked(const uint8_t* symbols, size_t n, const uint8_t* marks, uint8_t* list) {
  size_t i = 0;
#if defined(__x86_64__)
  if (has_wide_kernels())
    i = gather_marked_avx512(symbols, n, marks, &list);
  else if (isa() != Isa::kScalar)
    i = gather_marked_avx2(symbols, n, marks, &list);
#endif
  for (; i + 8 <= n; i += 8) {
    uint8_t any = 0;
    for (size_t j = i; j < i + 8; ++j) any |= marks[symbols[j]];
    if (any == 0) continue;
    for (size_t j = i; j < i + 8; ++j)
      if (marks[symbols[j]] != 0) *list++ = symbols[j];
  }
  for (; i < n; ++i)
    if (marks[symbols[i]] != 0) *list++ = symbols[i];
}

size_t count_escapes(const uint8_t* symbols, size_t n, uint8_t escape) {
  size_t i = 0;
  size_t count = 0;
#if defined(__x86_64__)
  if (has_wide_kernels())
    i = count_escapes_avx512(symbols, n, escape, &count);
  else if (isa() != Isa::kScalar)
    i = count_escapes_avx2(symbols, n, escape, &count);
#endif
  // Sums that a byte holds: compilers add many of these at once.
  for (size_t end; i < n; i = end) {
    end = std::min(n, i + 255);
    uint8_t some = 0;
    for (size_t j = i; j < end; ++j) some = static_cast<uint8_t>(some + (symbols[j] == escape));
    count += some;
  }
  return count;
}

void put_escaped(const uint8_t* list, size_t n, uint8_t escape, uint8_t* symbols) {
  size_t i = 0;
#if defined(__x86_64__)
  if (has_wide_kernels())
    i = put_escaped_avx512(&list, n, escape, symbols);
  else if (isa() != Isa::kScalar)
    i = put_escaped_avx2(&list, n, escape, symbols);
#endif
  constexpr uint64_t kLow = 0x0101010101010101;
  for (; i + 8 <= n; i += 8) {
    const uint64_t differs = load<uint64_t>(symbols + i) ^ kLow * escape;
    // A byte of 0 borrows from its top bit, which one of less than 0x80 has clear.
    if (((differs - kLow) & ~differs & kLow << 7) == 0) continue;
    for (size_t j = i; j < i + 8; ++j)
      if (symbols[j] == escape) symbols[j] = *list++;
  }
  for (; i < n; ++i)
    if (symbols[i] == escape) symbols[i] = *list++;
}

}  // namespace sparsefl::codec
