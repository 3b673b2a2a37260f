"""The README's picture: which rows are drawn."""

import pytest

from sparsefl.bench import plots


def row(density: float, ratio: float, **changes: object) -> dict[str, object]:
    base = {
        **{"op": "sparse_linear", "provider": "sparsefl", "mode": "full", "threads": 2},
        "table": "ops",
        **{"shape": {"batch": 64}, "correct": True, "density": density, "ratio_to_dense": ratio},
        **{"cpu": "cpu", "isa": "avx2", "torch": "2", "commit": "c"},
    }
    return {**base, **changes}


def test_curve_is_of_the_shape_with_most_densities_on_all_threads():
    rows = [
        row(0.1, 1.5, shape={"batch": 1}),
        row(0.5, 2.0),
        row(0.1, 4.0),
        row(0.1, 3.0, threads=1),
        row(0.1, 9.0, mode="fwd"),
        row(0.2, 9.0, correct=False),
        row(0.1, 1.0, provider="torch_dense"),
    ]
    assert plots.curves_of(rows) == {"sparse_linear": {"sparsefl": [(0.1, 4.0), (0.5, 2.0)]}}


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plot_is_written(tmp_path, suffix):
    pytest.importorskip("matplotlib")
    path = tmp_path / "new" / f"ratio.{suffix}"
    plots.draw(
        [
            row(0.1, 4.0),
            row(0.5, 0.5),
            row(0.1, 2.0, op="sign_linear"),
            row(0.5, 1.0, op="sign_linear"),
        ],
        path,
    )
    assert path.stat().st_size > 1000


def test_caption_names_every_commit():
    rows = [row(0.1, 4.0, commit="b" * 40), row(0.5, 2.0, commit="a" * 40), row(0.2, 3.0)]
    assert plots.caption(rows).endswith(f"commit {'a' * 12}, {'b' * 12}, c")
