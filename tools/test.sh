#!/usr/bin/env bash
# Runs all checks in the virtual environment that `make` set up. --full adds the tests marked slow.
# Its last line is "N passed, N failed, N skipped", summed over all pytest runs.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
reports=build/reports
# The processes that share the tests have torch's threads each, more than there are cores: one that
# waits must not spin.
export OMP_WAIT_POLICY=passive
rm -rf "$reports"
mkdir -p "$reports"

speed=" and not slow"
[ "${1:-}" = "--full" ] && speed=""

summary() {
  local status=$?
  $python - "$reports" "$status" <<'PY'
import pathlib
import sys
import xml.etree.ElementTree as ElementTree

total = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
for report in pathlib.Path(sys.argv[1]).glob("*.xml"):
    for suite in ElementTree.parse(report).iter("testsuite"):
        for key in total:
            total[key] += int(suite.get(key, 0))
failed = total["failures"] + total["errors"]
passed = total["tests"] - failed - total["skipped"]
# Lint or a compiler that ended the run counts as one failure.
failed = failed or int(sys.argv[2] != "0")
print(f"{passed} passed, {failed} failed, {total['skipped']} skipped")
PY
}
trap summary EXIT

suite() {
  local name=$1 markers=$2
  echo "--- $name"
  $python -m pytest -q --durations=5 --benchmark-disable --junitxml="$reports/$name.xml" \
    --numprocesses=auto --maxprocesses=4 --dist=worksteal -m "$markers"
}

echo "--- lint"
tools/lint.sh
echo "--- CUDA"
tools/compile_cuda.sh
suite all "${speed# and }"
best=$($python -c 'from sparsefl.ops import isa; print(isa())')
for isa in scalar avx2 avx512; do
  [ "$isa" = "$best" ] && continue
  if [ "$(SPARSEFL_ISA=$isa $python -c 'from sparsefl.ops import isa; print(isa())' 2>/dev/null)" != "$isa" ]; then
    echo "--- $isa: this machine lacks it"
    continue
  fi
  SPARSEFL_ISA=$isa suite "$isa" "isa$speed"
done
