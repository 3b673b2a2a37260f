// Included into the anonymous namespaces of the gap kernels.

// Byte by byte: holding a word until the next takes 1.5 times as long, as each then waits for the
// one before.
void set_bits(const uint32_t* indices, size_t count, uint8_t* bits) {
  for (size_t i = 0; i < count; ++i) {
    const uint32_t at = indices[i];
    bits[at / 8] |= static_cast<uint8_t>(1u << (at % 8));
  }
}
