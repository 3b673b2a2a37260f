// The instruction set that the kernels of this process use, chosen once.
#pragma once

namespace sparsefl {

enum class Isa { kScalar = 0, kAvx2 = 1, kAvx512 = 2 };

// The best instruction set of this machine, or the one that the environment variable SPARSEFL_ISA
// (scalar, avx2, avx512) asks for. An unknown name or one that the machine lacks throws
// std::runtime_error at the first call.
Isa isa();

const char* isa_name(Isa isa);

// Picks the entry of a kernel's table that belongs to isa().
template <class Table>
const Table& pick(const Table& scalar, const Table& avx2, const Table& avx512) {
  switch (isa()) {
    case Isa::kAvx512:
      return avx512;
    case Isa::kAvx2:
      return avx2;
    default:
      return scalar;
  }
}

}  // namespace sparsefl
