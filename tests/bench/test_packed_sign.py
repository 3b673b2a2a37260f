"""The table of packed signs, on a layer small enough for a test."""

import pytest
import torch

from sparsefl.bench import goals, packed_sign, rows
from sparsefl.timing import Effort

TINY = Effort(warmup=0, timed=2, probes=1)


def test_every_provider_is_timed_and_ours_are_compared():
    found = packed_sign.measure(0.2, size=65, effort=TINY)
    assert set(found) == {*packed_sign.PEERS, *packed_sign.ACTIVATIONS}
    for name in packed_sign.ACTIVATIONS:
        assert set(found[name]) == {"us", "bits", *packed_sign.PEERS}


def test_rows_are_those_of_the_table_and_its_goals(monkeypatch):
    monkeypatch.setattr(packed_sign, "EFFORT", TINY)
    described = {"isa": "scalar", "cpu": "one"}
    measured = [*packed_sign.rows(described, [0.1], 65)]
    assert len(measured) == 1
    assert [row["provider"] for row in measured[0]] == [
        *packed_sign.PEERS,
        *("sparsefl", "sparsefl_int8"),
    ]
    assert len({rows.identity(row) for row in measured[0]}) == 5
    seen = {(cell.table, cell.peer): cell.goal for cell in goals.cells(measured[0])}
    assert seen == {
        ("sign_batch_1", "torch_dense"): goals.Goal(15, 20),
        ("sign_batch_1", "torch_sparse"): goals.Goal(1.5, 2),
    }
    assert all(map(rows.line, rows.by_variant(measured[0])))


def test_a_wrong_product_is_refused():
    exact = torch.ones(1, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match="float32: error"):
        packed_sign.check("float32", exact.float() + 0.01, exact, exact.float())
    packed_sign.check("int8", exact.float() + 0.01, exact, exact.float())


@pytest.mark.parametrize(("ratio", "status"), [(14.0, 1), (16.0, 0)])
def test_a_missed_floor_is_told(monkeypatch, ratio, status):
    row = {"us": 1.0, "bits": 1.0, **dict.fromkeys(packed_sign.PEERS, ratio)}
    providers = (*packed_sign.PEERS, *packed_sign.ACTIVATIONS)
    monkeypatch.setattr(packed_sign, "measure", lambda density: dict.fromkeys(providers, row))
    assert packed_sign.main([0.1]) == status
