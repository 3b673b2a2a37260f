"""HideNseek's scores as changes: what clients hold, what they are sent, and what it costs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sparsefl import codec
from sparsefl.fl import Schedule, engine, load_method
from sparsefl.fl.method import Wire
from sparsefl.fl.methods import _hidenseek_copies as copies
from sparsefl.fl.methods import _hidenseek_downlink as downlink
from sparsefl.fl.serving import read, serve
from sparsefl.support import Support

HIDDEN = "4.weight"
CHANGE = f"{downlink.CHANGE}{HIDDEN}"
DELTAS = [name for name in downlink.SCORE_DELTAS if name != downlink.NO_DELTAS]


def served(run, round, version):
    return serve(run.method, run.state, run.method.broadcast(run.state, round), version)


def client_with(run, held):
    return replace(run.new_client(), held=held)


def kind(run, message):
    update = codec.decode(message, run.wire.schema, base=run.wire.supports)
    return next((name for name in (HIDDEN, CHANGE) if name in update), "nothing")


@pytest.mark.parametrize(
    ("deltas", "score_format"),
    [
        ("int8", "bf16"),
        ("int4", "fp32"),
        ("int4", "int8"),
        ("ternary", "int8"),
        ("ternary", "int4"),
    ],
)
def test_clients_that_keep_what_they_got_hold_the_servers_copy(federation, deltas, score_format):
    run = federation("hidenseek", score_deltas=deltas, score_format=score_format)
    run.schedule = Schedule(batch_size=16, clients_per_round=2)
    memories, kinds = {}, set()
    for round in range(1, 7):
        expected = 0
        for client in run.cohort(round):
            message = served(run, round, run.versions.get(client, 0)).message
            got = read(run.method, client_with(run, memories.get(client, {})), message)
            memories[client] = {HIDDEN: got[HIDDEN]}
            assert np.array_equal(got[HIDDEN].values, run.state.copies.now[HIDDEN])
            expected += len(message)
            kinds.add(kind(run, message))
        assert run.play(round).downlink_bytes == expected
        assert run.ledger.rounds[-1].lost == 0
    assert kinds == {HIDDEN, CHANGE}


@pytest.mark.parametrize("deltas", DELTAS)
def test_what_rounding_loses_comes_with_the_next_change(deltas):
    shape, draws = (40, 71), np.random.default_rng(3)
    support = Support.random(shape, 0.4, seed=1)
    options = {"score_format": "int8", "score_deltas": deltas}
    specs = {
        "w": (shape, "float32"),
        f"{downlink.CHANGE}w": ((support.nnz,), "float32"),
        downlink.OF: ((1,), "float32"),
    }
    formats = {"w": "int8", f"{downlink.CHANGE}w": deltas}
    wire = Wire(codec.Schema(specs), {"w": support}, downlink_format=formats)
    scores = torch.from_numpy(draws.standard_normal(support.nnz).astype(np.float32))
    held = copies.first(wire, {"w": scores}, options)
    moved = {"w": scores + torch.from_numpy(draws.standard_normal(support.nnz).astype(np.float32))}
    off = []
    for _ in range(40):
        held = copies.following(held, wire, moved)
        error = moved["w"] - torch.from_numpy(held.now["w"])
        off.append(float(error.square().mean().sqrt()))
    # Of errors uniform within half a step of int8; small negative scores keep their sign beside.
    least = float(moved["w"].abs().max()) / 127 / 12**0.5
    if deltas != "int8":
        assert off[0] > 3 * least
    # A ternary change has one size for all, so that the largest errors take long.
    assert off[-1] < (off[0] / 10 if deltas == "ternary" else 1.2 * least)
    assert held.version == 41


def test_float32_scores_are_followed_by_the_sum_of_what_was_sent(federation):
    run = federation("hidenseek", score_deltas="int4", score_format="fp32")
    total = run.state.scores[HIDDEN].numpy().copy()
    assert np.array_equal(run.state.copies.now[HIDDEN], total)
    for round in (1, 2, 3):
        run.play(round)
        off = run.state.scores[HIDDEN].numpy() - total
        assert np.abs(run.state.copies.change[HIDDEN] - off).max() <= np.abs(off).max() / 13
        total += run.state.copies.change[HIDDEN]
        assert np.array_equal(run.state.copies.now[HIDDEN], total)


def test_changes_of_other_scores_are_refused_and_the_model_stays(federation):
    run = federation("hidenseek", score_deltas="int4")
    run.play(1)
    own = served(run, 2, 1)
    off = own.entries[HIDDEN].values.copy()
    off[5] = np.nextafter(off[5], 1)
    others = {HIDDEN: codec.Sparse(run.wire.supports[HIDDEN], off)}
    for held in ({}, others):
        client = client_with(run, held)
        before = client.model[4].scores.clone()
        with pytest.raises(ValueError, match="other scores than this client holds"):
            read(run.method, client, own.message)
        assert torch.equal(client.model[4].scores, before)
    read(run.method, client_with(run, own.entries), own.message)


def test_incomplete_changes_are_refused(federation):
    run = federation("hidenseek", score_deltas="int4", dense_layers="")
    run.play(1)
    own = served(run, 2, 1)
    without = codec.Update({name: entry for name, entry in own.sent.items() if name != CHANGE})
    unnamed = codec.Update({name: e for name, e in own.sent.items() if name != downlink.OF})
    with pytest.raises(ValueError, match="every layer's"):
        run.method.whole(own.wire, own.entries, without)
    with pytest.raises(ValueError, match="other scores"):
        run.method.whole(own.wire, own.entries, unnamed)


def test_a_client_that_missed_a_round_and_a_new_one_get_the_whole(federation):
    run = federation("hidenseek", score_deltas="ternary")
    run.play(1)
    run.play(2)
    assert run.state.copies.version == 3
    kinds = [kind(run, served(run, 3, version).message) for version in range(4)]
    assert kinds == [HIDDEN, HIDDEN, CHANGE, "nothing"]
    lengths = [len(served(run, 3, version).message) for version in range(4)]
    assert lengths[0] == lengths[1] > lengths[2] > lengths[3]
    assert run.broadcast(3) == served(run, 3, 0).message


def test_after_a_round_without_replies_nothing_is_sent_anew(federation, monkeypatch):
    run = federation("hidenseek", score_deltas="int4")
    run.play(1)
    with monkeypatch.context() as broken:
        broken.setattr(engine, "train", lambda *_, **__: 1 / 0)
        assert run.play(2).lost == 3
    assert set(run.versions.values()) == {2}
    own = served(run, 3, 2)
    assert kind(run, own.message) == "nothing"
    got = read(run.method, client_with(run, own.entries), own.message)
    assert np.array_equal(got[HIDDEN].values, run.state.copies.now[HIDDEN])
    assert run.play(3).clients == 3


@pytest.mark.parametrize("rule", ["sign_update", "mean", "beta", "score", "personal"])
def test_every_rule_that_sends_scores_takes_changes(rule, federation):
    run = federation("hidenseek", rule=rule, score_deltas="int8")
    for round in (1, 2, 3):
        assert run.play(round).lost == 0
    # Replies are coded against the scores that clients hold, on both sides the same.
    own = served(run, 4, 3)
    assert own.base[HIDDEN] == codec.Sparse(run.wire.supports[HIDDEN], run.state.copies.now[HIDDEN])


def test_runs_end_about_where_whole_scores_do(small):
    accuracies = [
        small("hidenseek", rounds=6, options={"iterations": 10, "score_deltas": deltas}).accuracy
        for deltas in ("none", "int4")
    ]
    assert accuracies[0] > 0.6
    assert accuracies[1] > accuracies[0] - 0.1


def test_signs_do_not_travel_as_changes():
    with pytest.raises(ValueError, match="score_deltas must be 'none' with rule 'vote'"):
        load_method("hidenseek").with_defaults({"rule": "vote", "score_deltas": "int4"})
