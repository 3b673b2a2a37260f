"""FedTiny's masks of whole rectangles: chosen, sent, trained and exchanged as such."""

import pytest

from sparsefl.fl.methods import fedtiny

STRUCTURE = "block:4x4"


@pytest.mark.parametrize("initial", ["candidates", "random", "erk", "magnitude", "synflow"])
@pytest.mark.parametrize("density", [0.3, 0.02])
def test_masks_stay_whole_through_adjustments(initial, density, fedtiny_run):
    run = fedtiny_run(
        density=density,
        initial=initial,
        structure=STRUCTURE,
        iterations=5,
        adjust_every=1,
        granularity="entire",
    )
    before = dict(run.state.supports)
    assert before
    assert run.state.counts
    run.play(1)
    after = run.state.supports
    assert any(after[name] != before[name] for name in before)
    for support in (*before.values(), *after.values()):
        assert support.nnz > 0
        assert support.has(STRUCTURE)
    run.play(2)
    client = run.new_client()
    assert client.wire.schema == run.state.wire.schema


def test_drops_that_clients_recompute_are_refused_with_a_structure():
    options = {**fedtiny.DEFAULTS, "structure": "rows", "drops": "recomputed"}
    with pytest.raises(ValueError, match="drops must be 'sent' where masks have a structure"):
        fedtiny.check(options)
