"""README and docs are true: their Python runs, their commands parse, their links lead somewhere."""

import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def blocks(language: str) -> list[str]:
    fenced = re.compile(rf"^```{language}\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
    return [block for page in PAGES for block in fenced.findall(page.read_text())]


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


def anchors(page: pathlib.Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text()
    targets = re.findall(r"\]\(([^)]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for target in targets:
        path, _, anchor = target.partition("#")
        if not target.startswith("http"):
            file = page.parent / path if path else page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target


def test_every_page_is_linked_from_the_readme():
    first = PAGES[0].read_text()
    assert not [page.name for page in PAGES[1:] if f"](docs/{page.name})" not in first]
