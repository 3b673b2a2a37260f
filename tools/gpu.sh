#!/usr/bin/env bash
# On a machine with a CUDA device: builds with CUDA, tests, checks memory where compute-sanitizer is, times, and writes bench/results/NAME.json (default h200). Meant to take under 10 minutes. SPARSEFL_WRITE_VERIFIED=1: also writes which kernels passed.
set -euo pipefail
cd "$(dirname "$0")/.."

name=${1:-h200}
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
"$python" -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "no CUDA device: nothing to test or to time")'

"$python" -m pip install --quiet --no-build-isolation -e '.[test]'
"$python" -m sparsefl info
status=0
"$python" -m pytest -m gpu -q tests/gpu tests/kernels tests/ops || status=$?
sanitizer=$(command -v compute-sanitizer || command -v "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer" || true)
if [ -n "$sanitizer" ]; then
  # The layers alone: under it each launch takes many times as long. Graphs and compiled code are left out.
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout 150 "$sanitizer" --tool memcheck --error-exitcode 3 \
    "$python" -m pytest -m gpu -q tests/gpu -k 'equals_the_masked and float32 and not captured' || status=$?
else
  echo "no compute-sanitizer: memory not checked"
fi
"$python" -m sparsefl bench --device cuda --seconds 240 --json "bench/results/$name.json"
exit $status
