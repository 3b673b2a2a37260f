"""The page of claims, its plots, and the command that makes them."""

import pathlib
import sys

import pytest

from sparsefl.bench.claims import claim, page
from sparsefl.bench.claims.claim import Claim
from sparsefl.cli import main


def point(density: float, factor: float, **changes: object) -> Claim:
    held = {
        "row": f"7 PruneFL, net, density {density:g}",
        "claim": "at most 2x | by its authors",
        "accounting": {"step_factor": 2.0},
        "measured": {"step_factor": factor},
        "realised_factor": factor / 2,
        "baseline": {"name": "dense torch", "bits": 0.09},
        "settings": {"model": "net", "density": density},
        "command": "python -m some.script",
        "goals": {"step_factor": (2.0, None)},
        "commit": "0" * 40,
        "machine": {"cpu": "some cpu", "torch": "2", "isa": "avx2", "threads": 2},
        **changes,
    }
    return Claim(**held)  # type: ignore[arg-type]


CURVE = [point(0.5, 1.1), point(0.1, 4.0), point(0.01, 9.0)]


@pytest.fixture
def files(tmp_path):
    claim.write(tmp_path / "curve.json", CURVE)
    claim.write(tmp_path / "single.json", [point(0.1, 1.0, realised_factor=None, goals={})])
    return [str(tmp_path / "curve.json"), str(tmp_path / "single.json")]


def test_report_writes_a_page_that_shows_what_did_not_reproduce(files, tmp_path, capsys):
    out = tmp_path / "deep" / "out"
    assert main(["report", *files, "--out", str(out)]) == 0
    text = (out / "claims.md").read_text()
    assert "4 rows, 1 of them with a goal that was not reached" in text
    assert "**not reproduced**: step 1.1x instead of at least 2x" in text
    assert r"at most 2x \| by its authors" in text
    assert "`python -m some.script`" in text
    assert "some cpu, 2 threads, torch 2, avx2; commit 000000000000" in text
    assert "dense torch; bits 0.09" in text
    assert sorted(path.name for path in out.glob("*.png")) == ["curve.png", "realised.png"]
    assert "![curve](curve.png)" in text
    assert "![realised factors](realised.png)" in text
    for path in out.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    assert "2 of 3" in capsys.readouterr().out


def test_page_without_plots_names_none(files, tmp_path):
    assert main(["report", *files, "--out", str(tmp_path / "out"), "--no-plots"]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["claims.md"]
    assert "png" not in (tmp_path / "out" / "claims.md").read_text()


def test_page_comes_without_matplotlib_too(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["report", *files, "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "claims.md").exists()
    assert "no plots" in capsys.readouterr().err


def test_no_text_of_the_factors_is_clipped(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(page, "_save", lambda figure, path: figures.append(figure))
    long = {
        "row": "1 bytes of a row whose name is as long as any that is committed here, or longer"
    }
    page.draw_realised([*CURVE, point(0.1, 4.0, **long), point(0.1, 1.0, goals={})], tmp_path)
    (figure,) = figures
    figure.draw_without_rendering()
    (axes,) = figure.axes
    texts = [figure._suptitle, *axes.get_yticklabels(), *axes.get_xticklabels()]
    boxes = [text.get_window_extent() for text in texts]
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert all(figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1 for box in boxes)
    (legend,) = figure.legends
    named = [text.get_text() for text in legend.get_texts()]
    assert named == ["goals reached", "not reproduced", "no goal"]


def test_text_is_put_left_and_figures_right(files):
    rule = page.text(page.load([pathlib.Path(files[0])]), {}).splitlines()[7]
    assert rule == "| --- | --- | --- | --- | ---: | --- | --- |"


@pytest.mark.parametrize(
    ("more", "message"),
    [([], "need --out DIR"), (["somewhere", "--out", "x"], "runs or files of claims, got both")],
)
def test_claims_need_a_folder_and_no_runs_beside_them(files, more, message, capsys):
    assert main(["report", *files, *more]) != 0
    assert message in capsys.readouterr().err


def test_overview_has_a_line_a_kind_in_the_order_of_the_rows():
    groups = {"b": CURVE, "a": [point(0.1, 1.0, row="1 bytes, all", goals={})]}
    lines = page.overview(groups).splitlines()
    assert lines[2] == "| 1 bytes | - | step 1x | 0.5 |"
    assert lines[3] == "| 7 PruneFL | 2 of 3 | step 1.1x to step 9x | 0.55 to 4.5 |"
    assert page.missed(groups) == (
        "- 7 PruneFL, net, density 0.5: step 1.1x instead of at least 2x\n"
    )
    assert page.missed({}) == "None.\n"


def test_overview_of_nothing_says_so():
    assert page.overview({}) == "Not measured yet.\n"


def test_curve_needs_some_different_settings():
    assert page.axis_of(CURVE) == "density"
    assert page.axis_of(CURVE[:2]) is None
    assert page.axis_of([*CURVE, point(0.2, 1.0, settings={"model": "net"})]) is None
