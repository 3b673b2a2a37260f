#!/usr/bin/env bash
# Checks format, style, spelling and types; changes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin

$bin/python -m ruff check .
$bin/python -m ruff format --check .
find csrc tests/csrc -type f \( -name '*.h' -o -name '*.inl' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print0 |
  xargs -0 -r $bin/clang-format --dry-run -Werror
git ls-files -z 2>/dev/null | xargs -0 -r $bin/codespell
$bin/python -m mypy
