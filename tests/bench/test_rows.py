"""Rows keep through a file, and points measured again replace those of before."""

import pytest

from sparsefl.bench import rows


def row(density: float, **changes: object) -> rows.Row:
    base = dict.fromkeys(rows.CONTEXT, "same")
    base |= {"table": "ops", "op": "sparse_linear", "shape": {"batch": 1}, "threads": 2}
    base |= {"provider": "sparsefl", "variant": "batch_last", "mode": "full", "median_us": 1.0}
    return {**base, "density": density, **changes}


def test_rows_keep_through_a_file(tmp_path):
    written = [row(0.1), row(0.2, commit="another")]
    rows.write(written, tmp_path / "new" / "rows.json")
    read = rows.read(tmp_path / "new" / "rows.json")
    assert [{k: v for k, v in r.items() if k != "run"} for r in read] == written
    rows.write(read, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == (tmp_path / "new" / "rows.json").read_text()


def test_point_measured_again_replaces_all_its_rows():
    old = [row(0.1), row(0.1, mode="fwd"), row(0.2)]
    new = [row(0.1, median_us=2.0)]
    assert rows.merge(old, new) == [row(0.2), *new]


def test_rows_of_another_processor_are_refused():
    with pytest.raises(ValueError, match="another processor: same and slow"):
        rows.merge([row(0.1)], [row(0.1, cpu="slow")])
