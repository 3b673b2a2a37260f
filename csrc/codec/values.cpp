#include "codec/values.h"

#include "codec/blocks.h"
#include "codec/floats.h"

namespace sparsefl::codec {

bool has_value_section(ValueMode mode) { return mode != ValueMode::kNone && !is_sign(mode); }

bool append_values(const ValueSource& s, Profile, ValueScratch*, std::vector<uint8_t>* out,
                   ValueCoder* coder) {
  *coder = ValueCoder::kRaw;
  const size_t at = out->size();
  out->resize(at + value_section_bytes(s.mode, s.dtype, s.n, s.block_log2));
  uint8_t* section = out->data() + at;
  switch (s.mode) {
    case ValueMode::kFp32:
      return copy_checked(Dtype::kFloat32, s.values, s.n, section);
    case ValueMode::kBf16:
      return to_bf16(s.values, s.n, section);
    case ValueMode::kInt8:
    case ValueMode::kInt4:
      return to_blocks(s.mode, s.values, s.n, s.block_log2, section);
    default:
      return copy_checked(s.dtype, s.values, s.n, section);
  }
}

Reason read_values(const ValueSection& s, ValueScratch*, uint8_t* values) {
  if (s.coder != 0) return Reason::kCoder;
  switch (s.mode) {
    case ValueMode::kFp32:
      return copy_checked(Dtype::kFloat32, s.data, s.n, values) ? Reason::kNone : Reason::kValue;
    case ValueMode::kBf16:
      return from_bf16(s.data, s.n, values) ? Reason::kNone : Reason::kValue;
    case ValueMode::kInt8:
    case ValueMode::kInt4:
      return from_blocks(s.mode, s.data, s.n, s.block_log2, values);
    default:
      return copy_checked(s.dtype, s.data, s.n, values) ? Reason::kNone : Reason::kValue;
  }
}

}  // namespace sparsefl::codec
