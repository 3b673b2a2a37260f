"""Runs the contract's checks, a copy of which is tests/contract.py, as a user would."""

import os
import pathlib
import subprocess
import sys

CONTRACT = pathlib.Path(__file__).with_name("contract.py")
# Raised by each issue that widens what works.
ISSUE = 3


def test_contract_holds(tmp_path):
    command = [sys.executable, str(CONTRACT), "--issue", str(ISSUE)]
    # As a user has it: the layouts that measurements choose.
    env = {**os.environ, "SPARSEFL_LAYOUT": "measured", "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env=env
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().endswith(" passed, 0 failed")
