#!/usr/bin/env bash
# Builds the fuzz target of the codec with sanitizers into build/fuzz and runs it; arguments go to it.
# With CXX=clang++ that is libFuzzer, which looks for new paths; else the program of fuzz_driver.cpp.
# --make writes the corpus anew instead.
set -euo pipefail
cd "$(dirname "$0")/.."
compiler=${CXX:-g++}
corpus=tests/codec/corpus
flags="-std=c++20 -O1 -g1 -pthread -Wno-psabi -Wno-unknown-pragmas -Icsrc -Itests/csrc -fno-sanitize-recover=all"
sources=(csrc/codec/*.cpp tests/csrc/fuzz/*.cpp tests/csrc/fuzz_messages.cpp tests/csrc/steps.cpp)
is_clang=$("$compiler" --version | grep -c clang || true)
if [ "$is_clang" != 0 ]; then
  flags+=" -fsanitize=fuzzer,address,undefined"
else
  flags+=" -fsanitize=address,undefined"
  sources+=(tests/csrc/fuzz_driver.cpp)
fi

mkdir -p build/fuzz
rm -f build/fuzz/*.o
compile() {
  local machine=
  # Counts the steps of the codec.
  if [ "$is_clang" = 0 ] && [[ $1 = csrc/* ]]; then machine=-fsanitize-coverage=trace-pc; fi
  # Clang does not know the pragmas that name a file's instruction set.
  if [ "$is_clang" != 0 ]; then
    case $1 in
      *_avx512.cpp) machine=-march=icelake-server ;;
      *_avx2.cpp | *_bmi2.cpp) machine=-march=haswell ;;
    esac
  fi
  # shellcheck disable=SC2086
  "$compiler" $flags $machine -c "$1" -o "build/fuzz/$(basename "$1").o"
}
export -f compile
export compiler flags is_clang
printf '%s\n' "${sources[@]}" | xargs -P "$(nproc)" -I{} bash -c 'compile {}'
# shellcheck disable=SC2086
"$compiler" $flags build/fuzz/*.o -o build/fuzz/fuzz

cd build/fuzz
if [ "${1:-}" = --make ]; then
  rm -rf "../../$corpus"
  ./fuzz "../../$corpus" --make
elif [ "$is_clang" != 0 ]; then
  mkdir -p found
  ./fuzz "$@" found "../../$corpus"
else
  ./fuzz "../../$corpus" "$@"
fi
