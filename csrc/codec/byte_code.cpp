#include "codec/byte_code.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>

#include "codec/byte_table.h"
#include "codec/escapes.h"
#include "codec/rans.h"

namespace sparsefl::codec {
namespace {

// The head: coder in bits 0-1, escape in bit 2, log2 of the lanes in bits 4-6.
constexpr int kEscapeBit = 2, kLanesAt = 4;
constexpr int kMaxLanesLog2 = 6;
constexpr size_t kCountBytes = 3;

void append(const void* data, size_t bytes, std::vector<uint8_t>* out) {
  const auto* const begin = static_cast<const uint8_t*>(data);
  out->insert(out->end(), begin, begin + bytes);
}

// No symbol takes more bytes of words than this, by its model; a state below
// 2^32 grows a symbol's cost by less than log2(1 + frequency / 2^16) bits.
size_t max_words_bytes(const ByteModel& model, size_t n) {
  return static_cast<size_t>(model.words_cost >> (kCostFractionBits + 3)) + n / 64 +
         4 * model.lanes + 16;
}

// Appends the numbers of words, states and words.
void append_words(const uint8_t* symbols, size_t n, const ByteModel& model,
                  std::vector<uint8_t>* out) {
  const size_t count_at = out->size();
  const size_t streams = streams_of(model.lanes);
  const size_t states_at = count_at + kCountBytes * streams;
  size_t at = states_at + 4 * model.lanes;
  // Each stream ends where the next one's room begins, and then moves up.
  const size_t room = kRansSlack + max_words_bytes(model, n);
  out->resize(at + room * streams);
  uint32_t states[kMaxLanes];
  uint8_t *ends[kMaxStreams], *begins[kMaxStreams];
  for (size_t s = 0; s < streams; ++s) begins[s] = ends[s] = out->data() + at + room * (s + 1);
  encode_rans(model.table.frequencies, model.table.escape, symbols, n, model.lanes, states, begins);
  for (size_t s = 0; s < streams; ++s) {
    const auto bytes = static_cast<size_t>(ends[s] - begins[s]);
    const size_t count = bytes / 2;
    std::memcpy(out->data() + count_at + kCountBytes * s, &count, kCountBytes);
    std::memmove(out->data() + at, begins[s], bytes);
    at += bytes;
  }
  std::memcpy(out->data() + states_at, states, 4 * model.lanes);
  out->resize(at);
}

void append_escaped(const uint8_t* symbols, size_t n, const ByteModel& model,
                    std::vector<uint8_t>* out) {
  if (model.escaped == 0) return;
  uint8_t marks[256];
  for (int s = 0; s < 256; ++s)
    marks[s] = model.table.frequencies.of[s] == 0 || s == model.table.escape ? 0xFF : 0;
  const std::unique_ptr<uint8_t[]> list(new uint8_t[model.escaped + kListSlack]);
  gather_marked(symbols, n, marks, list.get());
  uint32_t counts[256] = {};
  count_bytes(list.get(), model.escaped, counts);
  append_byte_code(list.get(), model.escaped,
                   choose_byte_model(counts, model.escaped, Profile::kRans, false), out);
}

Reason read_any(const uint8_t* data, size_t bytes, size_t n, bool escapes, uint8_t* symbols,
                size_t* used);

// Puts the list behind a code in the places of the escapes.
Reason read_escaped(const uint8_t* data, size_t bytes, size_t n, uint8_t escape, uint8_t* symbols,
                    size_t* used) {
  const size_t escapes = count_escapes(symbols, n, escape);
  const std::unique_ptr<uint8_t[]> list(new uint8_t[escapes + kListSlack]);
  const Reason reason = read_any(data, bytes, escapes, false, list.get(), used);
  if (reason != Reason::kNone) return reason;
  put_escaped(list.get(), n, escape, symbols);
  return Reason::kNone;
}

// Reads the table of a code, stated or of a class.
Reason read_model(const uint8_t* data, size_t bytes, ByteCoder coder, bool escape,
                  SymbolTable* table, size_t* used) {
  if (coder == ByteCoder::kTable) return read_table(data, bytes, escape, table, used);
  if (bytes < 1) return Reason::kSectionLength;
  if (!escape || data[0] >= kGeometricClasses) return Reason::kCode;
  *table = geometric_table(data[0]);
  *used = 1;
  return Reason::kNone;
}

// Reads all behind the head.
Reason read_rans(const uint8_t* data, size_t bytes, size_t n, uint8_t head, uint8_t* symbols,
                 size_t* used) {
  const bool escape = (head >> kEscapeBit & 1) != 0;
  const size_t lanes = size_t{1} << (head >> kLanesAt);
  SymbolTable table;
  size_t at = 0;
  Reason reason = read_model(data, bytes, static_cast<ByteCoder>(head & 3), escape, &table, &at);
  if (reason != Reason::kNone) return reason;
  const size_t streams = streams_of(lanes);
  if (bytes - at < kCountBytes * streams + 4 * lanes) return Reason::kSectionLength;
  CodeWords words{};
  for (size_t s = 0; s < streams; ++s, at += kCountBytes)
    std::memcpy(&words.count[s], data + at, kCountBytes);
  uint32_t states[kMaxLanes];
  std::memcpy(states, data + at, 4 * lanes);
  at += 4 * lanes;
  words.begin = data + at;
  const size_t count = words.count[0] + words.count[1];
  if ((bytes - at) / 2 < count) return Reason::kSectionLength;
  if (*std::min_element(states, states + lanes) < kLeastState) return Reason::kCode;
  if (!decode_rans(table.frequencies, states, lanes, words, n, symbols)) return Reason::kCode;
  at += 2 * count;
  *used = at;
  if (!escape) return Reason::kNone;
  size_t more = 0;
  reason =
      read_escaped(data + at, bytes - at, n, static_cast<uint8_t>(table.escape), symbols, &more);
  *used += more;
  return reason;
}

// Reads a code; that of a list may not have another. n is 0 where nothing
// escaped.
Reason read_any(const uint8_t* data, size_t bytes, size_t n, bool escapes, uint8_t* symbols,
                size_t* used) {
  *used = 0;
  if (n == 0) return Reason::kNone;
  if (bytes == 0) return Reason::kSectionLength;
  const uint8_t head = data[0];
  const auto coder = static_cast<ByteCoder>(head & 3);
  if (coder == ByteCoder::kRaw || coder == ByteCoder::kRepeated) {
    const size_t stored = coder == ByteCoder::kRaw ? n : 1;
    if (head > 3) return Reason::kCode;
    if (bytes - 1 < stored) return Reason::kSectionLength;
    if (coder == ByteCoder::kRaw) std::memcpy(symbols, data + 1, n);
    if (coder == ByteCoder::kRepeated) std::memset(symbols, data[1], n);
    *used = 1 + stored;
    return Reason::kNone;
  }
  const bool escape = (head >> kEscapeBit & 1) != 0;
  if ((head >> kLanesAt) > kMaxLanesLog2 || (head & 8) != 0 || (escape && !escapes))
    return Reason::kCode;
  const Reason reason = read_rans(data + 1, bytes - 1, n, head, symbols, used);
  *used += 1;
  return reason;
}

}  // namespace

void append_byte_code(const uint8_t* symbols, size_t n, const ByteModel& model,
                      std::vector<uint8_t>* out) {
  const size_t begin = out->size();
  const bool escape = model.table.escape != kNoEscape;
  const int lanes_log2 = std::countr_zero(model.lanes);
  const auto head = static_cast<uint8_t>(static_cast<int>(model.coder) | (escape << kEscapeBit) |
                                         lanes_log2 << kLanesAt);
  switch (model.coder) {
    case ByteCoder::kRaw:
      break;
    case ByteCoder::kRepeated:
      out->insert(out->end(), {head, model.parameter});
      return;
    case ByteCoder::kTable:
      out->push_back(head);
      append_table(model.table, out);
      break;
    case ByteCoder::kGeometric:
      out->insert(out->end(), {head, model.parameter});
      break;
  }
  if (model.coder != ByteCoder::kRaw) {
    append_words(symbols, n, model, out);
    if (escape) append_escaped(symbols, n, model, out);
    if (out->size() - begin <= n) return;
    out->resize(begin);
  }
  out->push_back(static_cast<uint8_t>(ByteCoder::kRaw));
  append(symbols, n, out);
}

void append_byte_code(const uint8_t* symbols, size_t n, Profile profile,
                      std::vector<uint8_t>* out) {
  if (n == 0) return;
  uint32_t counts[256] = {};
  count_bytes(symbols, n, counts);
  append_byte_code(symbols, n, choose_byte_model(counts, n, profile), out);
}

uint64_t coded_bytes(const ByteModel& model) { return (model.cost >> (kCostFractionBits + 3)) + 1; }

Reason read_byte_code(const uint8_t* data, size_t bytes, size_t n, Profile profile,
                      uint8_t* symbols, size_t* used) {
  if (profile == Profile::kPlain && n != 0 && bytes != 0 &&
      (data[0] & 3) > static_cast<int>(ByteCoder::kRepeated))
    return Reason::kCoder;
  return read_any(data, bytes, n, true, symbols, used);
}

}  // namespace sparsefl::codec
