"""Clients of FedTiny that hold parts of the server's mask: who holds what, its means, its bytes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sparsefl import codec
from sparsefl.fl import Schedule
from sparsefl.fl.methods._fedtiny_masks import spread
from sparsefl.fl.methods._fedtiny_pruning import growth_name
from sparsefl.support import Support

LEVELS = (0.2, 1.0, 0.5)


def noted(run):
    """Collects what the clients of a federation report."""
    seen, report = [], run.method.report

    def recorded(client, received, round):
        seen.append(report(client, received, round))
        return seen[-1]

    run.method = replace(run.method, report=recorded)
    return seen


def dense(entry):
    """Returns a sparse entry in the shape of its weight, float64, and where it is kept."""
    mask = entry.support.to_numpy_mask()
    out = np.zeros(mask.shape)
    out[mask] = np.asarray(entry.values, np.float64)
    return out, mask


def holders_mean(seen, name, weights, before):
    """Averages each position over the clients that hold it; where there is none it stays."""
    parts = [dense(update[name]) for update in seen]
    total = sum(w * mask for w, (_, mask) in zip(weights, parts, strict=True))
    summed = sum(w * value for w, (value, _) in zip(weights, parts, strict=True))
    return np.where(total > 0, summed / np.maximum(total, 1), before)


@pytest.mark.parametrize("drops", ["sent", "recomputed"])
def test_parts_are_nested_and_the_largest_when_drawn(drops, fedtiny_run):
    schedule = Schedule(batch_size=16, clients_per_round=2)
    run = fedtiny_run(capabilities=LEVELS, adjust_every=2, drops=drops, schedule=schedule)
    version = run.method.version(run.state)
    for round in range(1, 9):
        assert run.play(round).lost == 0
        state, views = run.state, run.views()
        assert len({run.method.version(view) for view in views.values()}) == 1
        for name, support in state.supports.items():
            outer = support.to_mask()
            for level in (0.5, 0.2):
                inner = views[level].supports[name]
                assert inner.nnz == max(1, round_half_even(level * support.nnz))
                assert bool((inner.to_mask() <= outer).all())
                values = spread(state.values[name], support)
                torch.testing.assert_close(views[level].values[name], values[inner.to_mask()])
                outer = inner.to_mask()
        if run.method.version(state) != version and round % 2 == 0:
            version = run.method.version(state)
            for name in state.history[-1]:
                inner = views[0.5].supports[name].to_mask()
                size = spread(state.values[name], state.supports[name]).abs()
                left = state.supports[name].to_mask() & ~inner
                assert size[inner].min() >= size[left].max()
    assert len(state.history) > 2
    assert len(set(run.versions.values())) > 1


def round_half_even(value):
    return int(np.rint(value))


@pytest.mark.parametrize("levels", [LEVELS, (0.2, 0.2, 0.5)], ids=["all levels", "no strong one"])
def test_a_weight_is_averaged_over_those_who_hold_it(levels, fedtiny_run):
    run = fedtiny_run(capabilities=LEVELS, adjust_every=0)
    # Who is there to be strong in the whole federation may miss a round.
    run.capabilities = levels
    before, seen = run.state, noted(run)
    assert run.play(1).clients == 3
    examples = [len(data) for data in run.datasets]
    for name, support in before.supports.items():
        old = spread(before.values[name], support).double().numpy()
        expected = holders_mean(seen, name, examples, old)[support.to_numpy_mask()]
        torch.testing.assert_close(
            run.state.values[name].double(), torch.from_numpy(expected), rtol=1e-6, atol=1e-7
        )
        stays = [
            not any(m.flat[i] for _, m in map(dense, (u[name] for u in seen)))
            for i in support.indices
        ]
        assert any(stays) == (1.0 not in levels)
        assert torch.equal(run.state.values[name][stays], before.values[name][stays])


def test_gradients_count_where_the_server_is_pruned(fedtiny_run):
    run = fedtiny_run(capabilities=LEVELS, adjust_every=1, granularity="entire")
    before, seen = run.state, noted(run)
    run.play(1)
    examples, left_out = [len(data) for data in run.datasets], 0
    for name, count in before.counts.items():
        mask = before.supports[name].to_numpy_mask()
        gradients = [dense(update[growth_name(name)]) for update in seen]
        left_out += sum(int((kept & mask).sum()) for _, kept in gradients)
        mean = sum(value for value, _ in gradients) / 3
        sizes = np.where(mask, -1.0, np.abs(mean.astype(np.float32))).ravel()
        grown = np.argsort(-sizes, kind="stable")[:count]
        weights = np.abs(holders_mean(seen, name, examples, 0.0).astype(np.float32)).ravel()
        weak = np.argsort(np.where(mask.ravel(), weights, np.inf), kind="stable")[:count]
        expected = mask.copy().ravel()
        expected[weak], expected[grown] = False, True
        assert run.state.supports[name] == Support.from_mask(expected.reshape(mask.shape))
    assert left_out > 0


def test_the_ledger_counts_each_group_as_sent(fedtiny_run):
    run = fedtiny_run(capabilities=LEVELS, adjust_every=2, initial="random")
    views, setups = run.views(), dict(run._setups)
    down = {
        level: len(
            codec.encode(run.method.broadcast(view, 1), view.wire.schema, base=view.supports)
        )
        for level, view in views.items()
    }
    seen = noted(run)
    entry = run.play(1)
    for k, level in enumerate(LEVELS):
        group, view = run.ledger.groups[level], views[level]
        up = len(codec.encode(seen[k], view.wire.schema, base=view.supports))
        assert (group.clients, group.downlink_bytes, group.uplink_bytes) == (1, down[level], up)
        assert group.setup_bytes == len(setups[level])
    assert down[0.2] < down[0.5] < down[1.0]
    exchanged = run.exchanged_bytes[0]
    assert entry.setup_bytes == exchanged + sum(len(message) for message in setups.values())
    # The strongest draw their masks from the seed; the parts depend on the server's weights.
    entries = codec.decode(setups[0.5], run.state.schema)
    assert {name: e.support for name, e in entries.items()} == views[0.5].supports
    assert all(
        isinstance(e, codec.Regenerated)
        for e in codec.decode(setups[1.0], run.state.schema).values()
    )


def test_equal_clients_are_the_plain_method(fedtiny_run):
    same = fedtiny_run(capabilities=(1.0, 1.0, 1.0), adjust_every=1)
    plain = fedtiny_run(adjust_every=1)
    for run in (same, plain):
        run.play(1)
        run.play(2)
    assert same.ledger.rounds[1].uplink_bytes == plain.ledger.rounds[1].uplink_bytes
    for name, value in plain.state.values.items():
        assert torch.equal(value, same.state.values[name])


@pytest.mark.parametrize("drops", ["sent", "recomputed"])
def test_a_killed_run_goes_on_to_the_same_end(drops, small, toy, tmp_path):
    class KilledError(Exception):
        pass

    def kill(entry):
        if entry.round == 3:
            raise KilledError

    arguments = {
        "capabilities": list(LEVELS),
        "rounds": 6,
        "public": toy.clusters(40, 55),
        "schedule": Schedule(batch_size=16, clients_per_round=2),
        "options": {"adjust_every": 2, "adjust_until": 6, "drops": drops},
    }
    whole = small("fedtiny", **arguments)
    with pytest.raises(KilledError):
        small("fedtiny", **arguments, checkpoint=tmp_path, on_round=kill)
    resumed = small("fedtiny", **arguments, checkpoint=tmp_path, resume=True)
    assert resumed.model_sha256 == whole.model_sha256
    for one, other in zip(whole.row()["groups"], resumed.row()["groups"], strict=True):
        assert {**one, "train_s": 0} == {**other, "train_s": 0}


@pytest.mark.parametrize(
    ("density", "capabilities", "says"),
    [
        (0.3, (0.5, 0.5, 0.2), "the largest must be 1, got 0.5"),
        (1.0, (1.0, 0.5, 0.2), "density must be < 1"),
    ],
)
def test_shares_of_nothing_are_refused(density, capabilities, says, fedtiny_run):
    with pytest.raises(ValueError, match=says):
        fedtiny_run(density=density, capabilities=capabilities)
