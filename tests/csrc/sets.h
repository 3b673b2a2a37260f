// Every instruction set that this machine has.
#pragma once

namespace sparsefl {

inline bool has_avx2() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

inline bool has_avx512() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

}  // namespace sparsefl

// Calls check(kernels, name) for the kernels of a table in every set, and prints how many were
// compared in those that every machine has. A macro: the tables differ in name and type alone, and
// some machines lack those of x86.
#if defined(__x86_64__)
#define SPARSEFL_CHECK_X86(table)                \
  if (has_avx2()) check(table##Avx2F32, "avx2"); \
  if (has_avx512()) check(table##Avx512F32, "avx512");
#else
#define SPARSEFL_CHECK_X86(table)
#endif
#define SPARSEFL_CHECK_SETS(table, name) \
  check(table##F64, "float64");          \
  check(table##ScalarF32, "scalar");     \
  const int64_t everywhere = compared;   \
  SPARSEFL_CHECK_X86(table)              \
  std::printf(name " %" PRId64 "\n", everywhere);
