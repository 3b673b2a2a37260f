#!/usr/bin/env bash
# Makes the virtual environment VENV with PYTHON and installs what building and testing need, but not sparsefl itself.
set -euo pipefail
python=${1:?usage: create_venv.sh PYTHON VENV}
venv=${2:?usage: create_venv.sh PYTHON VENV}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
  echo "sparsefl needs Python 3.10 or newer; name one with make PYTHON=..." >&2
  exit 1
}
# An environment made in this very folder is kept: it holds hundreds of megabytes of torch.
if ! grep -qs "^#!$(pwd)/$venv/bin/python" "$venv/bin/pip" || ! "$venv/bin/python" -c '' 2>/dev/null; then
  "$python" -m venv --clear "$venv" || {
    echo "python -m venv failed; on Debian: apt-get install python3-venv" >&2
    exit 1
  }
fi

# Torch comes first: with it installed the other requirements resolve no second, larger build of it.
# Modules are compiled when first imported: most never are, and all take as long as the unpacking.
"$venv/bin/python" -m pip install --quiet --no-compile --constraint constraints.txt torch
"$venv/bin/python" - >"$venv/requirements.txt" <<'PY'
import sys

try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib

with open("pyproject.toml", "rb") as file:
    config = tomllib.load(file)
wanted = [*config["build-system"]["requires"], *config["project"]["dependencies"]]
for name, extra in config["project"]["optional-dependencies"].items():
    wanted += [] if name == "peers" else extra
sys.stdout.write("\n".join(wanted) + "\n")
PY
"$venv/bin/python" -m pip install --quiet --no-compile --constraint constraints.txt \
  --requirement "$venv/requirements.txt"
