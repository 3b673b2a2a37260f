#!/usr/bin/env bash
# Compiles every CUDA source with the flags of setup.py and fails when a kernel spills registers. Needs nvcc, but no GPU.
set -euo pipefail
cd "$(dirname "$0")/.."

nvcc=$(command -v nvcc || command -v "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc") || {
  echo "no nvcc: CUDA sources not compiled"
  exit 0
}
mapfile -t sources < <(find csrc/cuda -name '*.cu' 2>/dev/null | sort)
if [ ${#sources[@]} -eq 0 ]; then
  echo "nvcc found, but there are no CUDA sources yet"
  exit 0
fi
# setup.py builds at import, so its flags are read from the syntax tree.
mapfile -t flags < <(.venv/bin/python -c '
import ast, pathlib
tree = ast.parse(pathlib.Path("setup.py").read_text())
value = next(n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "NVCC")
print(*eval(compile(ast.Expression(value), "setup.py", "eval")), sep="\n")')
objects=$(mktemp -d)
trap 'rm -rf "$objects"' EXIT
for source in "${sources[@]}"; do
  log=$("$nvcc" "${flags[@]}" -Icsrc -c "$source" -o "$objects/$(basename "$source").o" 2>&1) || {
    echo "$log"
    exit 1
  }
  if grep -E '[1-9][0-9]* bytes spill' <<<"$log"; then
    echo "$source: a kernel spills registers" >&2
    exit 1
  fi
  echo "$source compiles without spills"
done
