"""The ledger's bound of the uplink: measured of a first reply, the others' in proportion."""

import pytest
import torch

from sparsefl import codec
from sparsefl.fl import Federation, Schedule, Task, engine, load_method
from sparsefl.fl.serving import Served, answer


@pytest.fixture
def recorded(toy, monkeypatch):
    """Returns a player of one round that gives the entry, the replies and what was measured."""

    def play(method="fedpt", capabilities=(), lost=(), **options):
        chosen, replies, measured = load_method(method), [], []
        reply_bound = Served.reply_bound_bytes

        def answering(*arguments):
            replies.append(answer(*arguments))
            return b"garbage" if len(replies) - 1 in lost else replies[-1]

        def measuring(own, reply):
            measured.append((reply, reply_bound(own, reply)))
            return measured[-1][1]

        monkeypatch.setattr(engine, "answer", answering)
        monkeypatch.setattr(Served, "reply_bound_bytes", measuring)
        data = [toy.clusters(20 + 7 * n, n) for n in range(len(capabilities) or 4)]
        task = Task(toy.cnn, torch.zeros(1, *toy.pixels), 0, 0.3, chosen.with_defaults(options))
        run = Federation(chosen, task, data, Schedule(batch_size=16), capabilities=capabilities)
        return run.play(1), replies, measured

    return play


@pytest.mark.parametrize("uplink", ["fp32", "int8", "sign"])
def test_the_first_reply_is_measured_and_the_others_are_scaled_by_their_bytes(recorded, uplink):
    entry, replies, measured = recorded("fedavg", uplink=uplink)
    ((first, bound),) = measured
    assert first == replies[0]
    expected = [round(bound / len(first) * len(reply)) for reply in replies]
    assert entry.uplink_bound_bytes == sum(expected)
    assert expected[0] == bound
    assert entry.uplink_bytes == sum(len(reply) for reply in replies)
    if uplink == "fp32":
        assert len({len(reply) for reply in replies}) > 1


def test_scaling_is_near_what_each_reply_would_have_had(recorded, toy):
    entry, replies, measured = recorded("fedavg", uplink="int8")
    schema = codec.Schema.of(toy.cnn())
    own = [codec.bound_bytes(codec.decode(r, schema), schema, "int8") for r in replies]
    assert own[0] == measured[0][1]
    assert len(set(own)) > 1
    assert entry.uplink_bound_bytes == pytest.approx(sum(own), rel=0.03)


def test_each_capability_has_a_measure_of_its_own(recorded):
    capabilities = (1.0, 0.5, 1.0, 0.1, 0.5)
    entry, replies, measured = recorded(capabilities=capabilities)
    first = {level: capabilities.index(level) for level in capabilities}
    assert {reply for reply, _ in measured} == {replies[k] for k in first.values()}
    assert len(measured) == 3
    shares = {level: dict(measured)[replies[k]] / len(replies[k]) for level, k in first.items()}
    assert len(set(shares.values())) == 3
    expected = [
        round(shares[level] * len(reply))
        for level, reply in zip(capabilities, replies, strict=True)
    ]
    assert entry.uplink_bound_bytes == sum(expected)


def test_a_refused_reply_is_not_what_the_others_are_measured_by(recorded):
    entry, replies, measured = recorded("fedavg", lost=(0, 2))
    assert (entry.clients, entry.lost) == (2, 2)
    ((first, bound),) = measured
    assert first == replies[1]
    # What was refused has been sent; it says nothing.
    assert entry.uplink_bytes == 2 * len(b"garbage") + len(replies[1]) + len(replies[3])
    assert entry.uplink_bound_bytes == bound + round(bound / len(first) * len(replies[3]))
