"""FedTiny's own accounting, by hand."""

import pytest

from sparsefl.fl.methods import _fedtiny_accounting as accounting
from sparsefl.support import Support

HIDDEN = "4.weight"


@pytest.mark.parametrize(
    ("kept", "bits"),
    [
        (1000, 32 * 1000),
        (900, 32 * 1000),
        (899, 1000 + 32 * 899),
        (300, 1000 + 32 * 300),
        (299, (10 + 32) * 299),
        (100, (10 + 32) * 100),
        (99, (6 + 32) * 99 + 20 * 7),  # 20 rows of 50: CSR is shorter than CSC, 5 * 99 + 50 * 7
        (9, (6 + 32) * 9 + 20 * 4),
        (1, 32 + 5),  # pointers of a single weight take no bits; CSC has the shorter indices
    ],
)
def test_storage_follows_the_density(kept, bits):
    support = Support.from_indices((20, 2, 5, 5), list(range(kept)))
    assert accounting.storage_bits(support) == bits


def test_rounds_of_adjustment_pay_a_dense_gradient_once():
    assert accounting.round_flops(100.0, 10.0, 5) == 150
    assert accounting.round_flops(100.0, 10.0, 5, adjusts=True) == 120 + 10 + 200


def test_claims_follow_the_papers_formulas(toy, fedtiny_run):
    run = fedtiny_run(adjust_every=2)
    for played in (1, 2, 3, 4):
        run.play(played)
    (support,) = run.state.supports.values()
    m, n = support.nnz, 24 * 36
    dense = sum(p.numel() for p in toy.cnn().parameters()) - n
    assert 0.1 <= support.density < 0.3
    assert run.state.growth_bits % (10 + 32) == 0
    gradients = -(-run.state.growth_bits // 8 // 4)
    claimed = run.method.claimed_uplink_bytes(run.state)
    assert abs(claimed - ((10 + 32) * m / 8 + 4 * dense + gradients)) <= 2
    forward = {"0.weight": 1000, HIDDEN: 200, "6.weight": 30}
    assert run.method.claimed_flops(run.state, forward) == round(3 * (1030 + 200 * m / n))
