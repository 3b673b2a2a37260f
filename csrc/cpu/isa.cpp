#include "cpu/isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace sparsefl {
namespace {

bool supported(Isa isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  switch (isa) {
    case Isa::kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    default:
      return true;
  }
#else
  return isa == Isa::kScalar;
#endif
}

Isa choose() {
  if (const char* asked = std::getenv("SPARSEFL_ISA"); asked != nullptr && *asked != '\0') {
    for (Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
      if (isa_name(isa) != std::string(asked)) continue;
      if (supported(isa)) return isa;
      throw std::runtime_error("SPARSEFL_ISA=" + std::string(asked) +
                               ": this machine does not have that instruction set");
    }
    throw std::runtime_error("SPARSEFL_ISA=" + std::string(asked) +
                             ": expected scalar, avx2 or avx512");
  }
  if (supported(Isa::kAvx512)) return Isa::kAvx512;
  return supported(Isa::kAvx2) ? Isa::kAvx2 : Isa::kScalar;
}

}  // namespace

Isa isa() {
  static const Isa chosen = choose();
  return chosen;
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    default:
      return "scalar";
  }
}

}  // namespace sparsefl
