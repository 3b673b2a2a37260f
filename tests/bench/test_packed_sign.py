"""The table of packed signs, on a layer small enough for a test."""

import pytest
import torch

from sparsefl.bench import packed_sign
from sparsefl.timing import Effort

TINY = Effort(warmup=0, timed=2, probes=1)


def test_every_provider_is_timed_and_ours_are_compared():
    found = packed_sign.measure(0.2, size=65, effort=TINY)
    assert set(found) == {*packed_sign.PEERS, *packed_sign.OURS}
    for name in packed_sign.OURS:
        assert set(found[name]) == {"us", "bits", *packed_sign.PEERS}


def test_a_wrong_product_is_refused():
    exact = torch.ones(1, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match="float32: error"):
        packed_sign.check("float32", exact.float() + 0.01, exact, exact.float())
    packed_sign.check("int8", exact.float() + 0.01, exact, exact.float())


@pytest.mark.parametrize(("ratio", "status"), [(14.0, 1), (16.0, 0)])
def test_a_missed_floor_is_told(monkeypatch, ratio, status):
    row = {"us": 1.0, "bits": 1.0, **dict.fromkeys(packed_sign.PEERS, ratio)}
    providers = (*packed_sign.PEERS, *packed_sign.OURS)
    monkeypatch.setattr(packed_sign, "measure", lambda density: dict.fromkeys(providers, row))
    assert packed_sign.main([0.1]) == status
