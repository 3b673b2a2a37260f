"""The README's tables are what the committed results give."""

import pathlib

import pytest

from sparsefl.bench import markdown, tables

ROOT = pathlib.Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results"


def row(provider: str, median_us: float, **changes: object) -> dict[str, object]:
    base = {
        **{"op": "sparse_linear", "provider": provider, "mode": "full", "threads": 2},
        "table": "ops",
        **{"shape": {"batch": 4, "in_features": 8, "out_features": 9}, "density": 0.1},
        **{"cpu": "cpu", "isa": "avx2", "torch": "2", "commit": "c", "correct": True},
    }
    return {**base, "median_us": median_us, "ratio_to_dense": 4.0, **changes}


def test_ops_table_takes_the_fastest_variant_on_all_threads():
    rows = [
        row("torch_dense", 1900.0, variant="a"),
        row("torch_dense", 1500.0, variant="b"),
        row("sparsefl", 400.0),
        row("sparsefl", 800.0, threads=1),
        row("sparsefl", 100.0, mode="fwd"),
        row("torch_sparse", 1.0, correct=False),
        row("sparsefl", 10.0, density=0.5),
    ]
    lines = tables.ops_table(rows).splitlines()
    assert lines[2] == "| `sparse_linear` 8x9, batch 4 | 1,500 | - | 400 | 4.00x |"
    assert lines[3] == ""


def test_goals_table_has_kernels_beside_the_layers_that_users_see():
    ratios = {"conv_kernels": 5.0, "conv": 4.0}
    rows = [row("sparsefl", 1.0, table=t, ratios={"torch_dense": r}) for t, r in ratios.items()]
    lines = tables.goals_table(rows).splitlines()
    assert lines[2].endswith("batch 64: dense torch | 4x |")
    assert lines[3] == "| the same layers' kernels alone: dense torch's | 5x |"


def test_fill_replaces_what_stands_between_the_markers():
    text = "a\n<!-- one -->\nold\n<!-- /one -->\nb\n<!-- two -->\n<!-- /two -->\n"
    made = {"one": "new\n", "two": "second\n"}
    filled = markdown.fill(text, made)
    assert filled == (
        "a\n<!-- one -->\nnew\n<!-- /one -->\nb\n<!-- two -->\nsecond\n<!-- /two -->\n"
    )
    assert markdown.fill(filled, made) == filled
    assert markdown.names_of(text) == ["one", "two"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- one -->\n", "the marker one stands alone"),
        ("<!-- /one -->", "the marker /one stands alone"),
        ("<!-- one -->\n<!-- /two -->", "the marker one ends as two"),
        ("<!-- two -->\n<!-- /two -->", "there is no table two, only one"),
    ],
)
def test_fill_refuses_markers_that_do_not_fit(text, message):
    with pytest.raises(ValueError, match=message):
        markdown.fill(text, {"one": "new"})


def test_pages_are_generated_from_the_committed_results():
    made, used = tables.tables_of(RESULTS), set()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text()
        assert markdown.fill(text, made) == text, path.name
        used.update(markdown.names_of(text))
    assert used == set(made)
