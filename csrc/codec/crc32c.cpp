#include "codec/crc32c.h"

#include <array>

#include "codec/format.h"
#include "cpu/isa.h"

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__aarch64__)
#include <arm_acle.h>
#include <sys/auxv.h>
#endif

namespace sparsefl::codec {
namespace {

using Table = std::array<uint32_t, 256>;
constexpr uint32_t kPolynomial = 0x82F63B78;  // reflected

constexpr uint32_t after_zero_byte(uint32_t crc) {
  for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? kPolynomial : 0);
  return crc;
}

// kSlices[j][b]: what byte b does to the register when j more bytes follow it.
constexpr std::array<Table, 8> make_slices() {
  std::array<Table, 8> slices{};
  for (uint32_t b = 0; b < 256; ++b) slices[0][b] = after_zero_byte(b);
  for (size_t j = 1; j < 8; ++j)
    for (uint32_t b = 0; b < 256; ++b)
      slices[j][b] = (slices[j - 1][b] >> 8) ^ slices[0][slices[j - 1][b] & 0xFF];
  return slices;
}
constexpr std::array<Table, 8> kSlices = make_slices();

// Registers in and out carry no inversion here: crc32c() does it.

uint32_t update_bytes(uint32_t crc, const uint8_t* data, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) crc = (crc >> 8) ^ kSlices[0][(crc ^ data[i]) & 0xFF];
  return crc;
}

uint32_t update_table(uint32_t crc, const uint8_t* data, size_t bytes) {
  size_t i = 0;
  for (; i + 8 <= bytes; i += 8) {
    const uint64_t word = load<uint64_t>(data + i) ^ crc;
    crc = 0;
    for (size_t j = 0; j < 8; ++j) crc ^= kSlices[7 - j][(word >> (8 * j)) & 0xFF];
  }
  return update_bytes(crc, data + i, bytes - i);
}

#if defined(__x86_64__)
#define SPARSEFL_CRC_TARGET __attribute__((target("sse4.2")))
#define SPARSEFL_CRC_WORD(crc, word) static_cast<uint32_t>(_mm_crc32_u64(crc, word))
constexpr const char* kHardware = "sse4.2";
// Every other instruction set than scalar has it.
bool is_wanted() { return isa() != Isa::kScalar; }
bool has_instruction() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("sse4.2");
}
#elif defined(__aarch64__)
#define SPARSEFL_CRC_TARGET __attribute__((target("+crc")))
#define SPARSEFL_CRC_WORD(crc, word) __crc32cd(crc, word)
constexpr const char* kHardware = "armv8";
// Scalar is the only instruction set of the kernels there.
bool is_wanted() { return true; }
bool has_instruction() { return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0; }
#endif

#if defined(SPARSEFL_CRC_TARGET)

// The instruction takes three cycles and starts every cycle: three lanes of this many bytes run
// side by side and are joined by moving a register past a lane of zeros.
constexpr size_t kLaneBytes = 1024;
// Lanes are too short for the machine to see where they go, so bytes are asked for this far ahead:
// 2.4 MB that are in no cache take 0.13 instead of 0.39 ms on Zen 4.
constexpr size_t kAheadBytes = 8192;
constexpr size_t kLineBytes = 64;

// kSkip[j][b]: byte j of a register, being b, moved past kLaneBytes zero bytes.
constexpr std::array<Table, 4> make_skip() {
  std::array<uint32_t, 32> moved{};
  for (size_t bit = 0; bit < 32; ++bit) {
    uint32_t crc = 1u << bit;
    for (size_t i = 0; i < kLaneBytes; ++i) crc = (crc >> 8) ^ kSlices[0][crc & 0xFF];
    moved[bit] = crc;
  }
  std::array<Table, 4> skip{};
  for (size_t j = 0; j < 4; ++j)
    for (size_t b = 0; b < 256; ++b)
      for (size_t bit = 0; bit < 8; ++bit)
        if ((b >> bit) & 1) skip[j][b] ^= moved[8 * j + bit];
  return skip;
}
constexpr std::array<Table, 4> kSkip = make_skip();

uint32_t skip_lane(uint32_t crc) {
  return kSkip[0][crc & 0xFF] ^ kSkip[1][(crc >> 8) & 0xFF] ^ kSkip[2][(crc >> 16) & 0xFF] ^
         kSkip[3][crc >> 24];
}

SPARSEFL_CRC_TARGET uint32_t update_hardware(uint32_t crc, const uint8_t* data, size_t bytes) {
  for (; bytes >= 3 * kLaneBytes; data += 3 * kLaneBytes, bytes -= 3 * kLaneBytes) {
    uint32_t second = 0;
    uint32_t third = 0;
    for (size_t i = 0; i < kLaneBytes; i += kLineBytes) {
      for (size_t line = 0; line < 3; ++line)
        __builtin_prefetch(data + kAheadBytes + 3 * i + line * kLineBytes);
      for (size_t j = i; j < i + kLineBytes; j += 8) {
        crc = SPARSEFL_CRC_WORD(crc, load<uint64_t>(data + j));
        second = SPARSEFL_CRC_WORD(second, load<uint64_t>(data + kLaneBytes + j));
        third = SPARSEFL_CRC_WORD(third, load<uint64_t>(data + 2 * kLaneBytes + j));
      }
    }
    crc = skip_lane(skip_lane(crc) ^ second) ^ third;
  }
  size_t i = 0;
  for (; i + 8 <= bytes; i += 8) crc = SPARSEFL_CRC_WORD(crc, load<uint64_t>(data + i));
  return update_bytes(crc, data + i, bytes - i);
}

#endif

using Update = uint32_t (*)(uint32_t, const uint8_t*, size_t);

Update choose() {
#if defined(SPARSEFL_CRC_TARGET)
  if (is_wanted() && has_instruction()) return update_hardware;
#endif
  return update_table;
}

Update chosen() {
  static const Update update = choose();
  return update;
}

}  // namespace

uint32_t crc32c(const uint8_t* data, size_t bytes, uint32_t before) {
  return ~chosen()(~before, data, bytes);
}

const char* crc32c_path() {
#if defined(SPARSEFL_CRC_TARGET)
  if (chosen() == update_hardware) return kHardware;
#endif
  return "table";
}

}  // namespace sparsefl::codec
