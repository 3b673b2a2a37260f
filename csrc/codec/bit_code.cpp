#include "codec/bit_code.h"

#include "codec/row_code.h"

namespace sparsefl::codec {

BitCoder append_bit_code(const uint8_t* bits, size_t n, size_t count, size_t row, Profile profile,
                         Scratch* scratch, std::vector<uint8_t>* out) {
  scratch->structured.clear();
  BitCoder structured = BitCoder::kTiles;
  if (!has_rows(n, row) || count == 0 || count == n) {
    structured = BitCoder::kBitmap;
  } else if (!append_tiles(bits, n, row, profile, scratch, &scratch->structured)) {
    const bool pays = append_rows(bits, n, row, profile, false, scratch, &scratch->structured);
    structured = pays ? BitCoder::kRows : BitCoder::kBitmap;
  }
  const FlatPlan plan = plan_flat_code(bits, n, count, profile, scratch);
  if (structured != BitCoder::kBitmap && scratch->structured.size() < plan.bytes) {
    out->insert(out->end(), scratch->structured.begin(), scratch->structured.end());
    return structured;
  }
  append_planned(bits, n, count, plan, scratch, out);
  return plan.coder;
}

bool append_bit_code_as(BitCoder coder, const uint8_t* bits, size_t n, size_t count, size_t row,
                        Profile profile, Scratch* scratch, std::vector<uint8_t>* out) {
  if (coder == BitCoder::kRows)
    return has_rows(n, row) && append_rows(bits, n, row, profile, true, scratch, out);
  if (coder == BitCoder::kTiles)
    return has_rows(n, row) && append_tiles(bits, n, row, profile, scratch, out);
  return append_flat_code_as(coder, bits, n, count, scratch, out);
}

Reason read_bit_code(BitCoder coder, const uint8_t* data, size_t bytes, size_t n, size_t count,
                     size_t row, Profile profile, Scratch*, uint8_t* bits) {
  if (coder == BitCoder::kRows) return read_rows(data, bytes, n, count, row, profile, bits);
  if (coder == BitCoder::kTiles) return read_tiles(data, bytes, n, count, row, profile, bits);
  return read_flat_code(coder, data, bytes, n, count, profile, bits);
}

Reason read_bit_indices(BitCoder coder, const uint8_t* data, size_t bytes, size_t n, size_t count,
                        size_t row, Profile profile, Scratch* scratch, uint32_t* indices) {
  Reason reason = Reason::kNone;
  if (read_flat_indices(coder, data, bytes, n, count, profile, indices, &reason)) return reason;
  scratch->code.resize((n + 7) / 8);
  reason = read_bit_code(coder, data, bytes, n, count, row, profile, scratch, scratch->code.data());
  if (reason == Reason::kNone) indices_of(scratch->code.data(), n, indices);
  return reason;
}

}  // namespace sparsefl::codec
