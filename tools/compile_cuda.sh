#!/usr/bin/env bash
# Compiles every CUDA source with the flags of setup.py and fails on a warning, a spilled register or wgmma
# instructions that ptxas had to serialise (its notes C75xx). Needs nvcc, but no GPU.
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

compile() {
  local source=$1 log
  log=$("$nvcc" "${flags[@]}" -Xcompiler=-Wall,-Wextra,-Wno-unknown-pragmas "$source" -o "$objects/$(basename "$source").o" 2>&1) || {
    echo "$log"
    return 1
  }
  if grep -iE 'warning|C75[0-9]{2}|[1-9][0-9]* bytes spill' <<<"$log" >&2; then
    echo "$source: a kernel spills registers, or there is a warning" >&2
    return 1
  fi
  echo "$source compiles without spills and warnings"
}

for source in "${sources[@]}"; do
  # As many at a time as there are cores.
  while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n || true; done
  { compile "$source" || touch "$objects/failed"; } &
done
wait
[ ! -e "$objects/failed" ]
