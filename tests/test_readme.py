"""The README is true: its Python runs, its commands parse, its links lead somewhere."""

import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
OURS = [line for line in COMMANDS if line.startswith("sparsefl ")]


def test_quick_start_is_there():
    assert blocks("python")
    assert OURS


@pytest.mark.parametrize("snippet", blocks("python"), ids=lambda text: text.splitlines()[-1][:40])
def test_snippet_runs(snippet, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", snippet],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", OURS)
def test_command_has_the_options_named(line):
    words = shlex.split(line, comments=True)[1:]
    done = subprocess.run(
        [sys.executable, "-m", "sparsefl", words[0], "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    named = {word.split("=")[0] for word in words if word.startswith("--")}
    assert not {option for option in named if option not in done.stdout}


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("make ")])
def test_make_target_exists(line):
    target = shlex.split(line, comments=True)[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", TEXT) + re.findall(r'src="([^"]+)"', TEXT)
    assert not [t for t in targets if not t.startswith("http") and not (ROOT / t).exists()]
