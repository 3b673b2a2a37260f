// Included into the anonymous namespaces of the gap kernels.

// Streams whose bits are set in turns.
constexpr size_t kStreams = 8;

// Byte by byte, from several places in turn: neighbours mostly share a byte, and each would wait
// for the one before it.
void set_bits(const uint32_t* indices, size_t count, uint8_t* bits) {
  const auto set = [bits](uint32_t at) { bits[at / 8] |= static_cast<uint8_t>(1u << (at % 8)); };
  const size_t each = count / kStreams;
  for (size_t i = 0; i < each; ++i)
    for (size_t stream = 0; stream < kStreams; ++stream) set(indices[stream * each + i]);
  for (size_t i = each * kStreams; i < count; ++i) set(indices[i]);
}
