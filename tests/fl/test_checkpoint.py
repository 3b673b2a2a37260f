"""Interrupted runs: what they end in, and which are refused."""

import json
import os

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from sparsefl.codec import Schema
from sparsefl.fl import Schedule
from sparsefl.fl.checkpoint import FILE, Checkpoint, from_plain, to_plain
from sparsefl.fl.ledger import Ledger, Round
from sparsefl.support import Support


class KilledError(Exception):
    pass


def kill_after(round):
    def on_round(entry):
        if entry.round == round:
            raise KilledError

    return on_round


def played(result):
    """Returns what a ledger says of the rounds, the seconds left out."""
    kept = [
        {k: v for k, v in vars(r).items() if not k.endswith("_s")} for r in result.ledger.rounds
    ]
    return json.dumps(kept)


OPTIONS = {
    "fedavg": {"server_optimizer": "adam", "server_lr": 0.02, "lr_schedule": "cosine"},
    "fedprox": {"mu": 0.1, "momentum": 0.5, "uplink": "int8_unbiased"},
    "scaffold": {"server_optimizer": "momentum", "server_lr": 0.5},
    "fedpm": {"reset_every": 3, "prior": 2.0},
    "fedpt": {"server_optimizer": "momentum", "lr_decay": 0.9},
    "fedtiny": {"adjust_every": 1, "adjust_until": 4, "drops": "recomputed"},
    "hidenseek": {"iterations": 10, "score_deltas": "int4"},
    "lotteryfl": {"threshold": 0.2, "prune_share": 0.4},
}


@pytest.mark.parametrize("at", [1, 3])
def test_a_killed_run_ends_in_the_same_model(method, at, small, toy, tmp_path):
    arguments = {
        "model": toy.norm_net,
        "rounds": 4,
        "options": OPTIONS[method],
        "schedule": Schedule(batch_size=16, clients_per_round=2, sampling="examples"),
    }
    whole = small(method, **arguments)
    with pytest.raises(KilledError):
        small(method, **arguments, checkpoint=tmp_path / "run", on_round=kill_after(at))
    seen = []
    resumed = small(
        method, **arguments, checkpoint=tmp_path / "run", resume=True, on_round=seen.append
    )
    assert [entry.round for entry in seen] == list(range(at + 1, 5))
    assert resumed.model_sha256 == whole.model_sha256
    assert played(resumed) == played(whole)
    assert resumed.accuracy_per_client == whole.accuracy_per_client


@pytest.mark.parametrize(("at", "from_round"), [(2, 1), (4, 4), (5, 4)])
def test_a_checkpoint_every_few_rounds_is_enough(at, from_round, small, tmp_path):
    arguments = {"rounds": 7, "checkpoint": tmp_path, "checkpoint_every": 3}
    whole = small("fedpt", rounds=7)
    with pytest.raises(KilledError):
        small("fedpt", **arguments, on_round=kill_after(at))
    seen = []
    resumed = small("fedpt", **arguments, resume=True, on_round=seen.append)
    assert [entry.round for entry in seen] == list(range(from_round, 8))
    assert resumed.model_sha256 == whole.model_sha256
    assert played(resumed) == played(whole)
    # The last round has a checkpoint whatever its number.
    assert len(Checkpoint(tmp_path, {})._read()["run"]["items"]) > 0
    again = small("fedpt", **arguments, resume=True, on_round=seen.append)
    assert (len(seen), again.model_sha256) == (8 - from_round, whole.model_sha256)


def test_a_checkpoint_never_is_refused(small, tmp_path):
    with pytest.raises(ValueError, match="checkpoint_every must be at least 1, got 0"):
        small("fedavg", checkpoint=tmp_path, checkpoint_every=0)


def test_a_finished_run_may_go_on_for_more_rounds(small, tmp_path):
    whole = small("fedavg", rounds=4)
    first = small("fedavg", rounds=2, checkpoint=tmp_path)
    again = small("fedavg", rounds=2, checkpoint=tmp_path, resume=True)
    assert again.model_sha256 == first.model_sha256
    more = small("fedavg", rounds=4, checkpoint=tmp_path, resume=True)
    assert more.model_sha256 == whole.model_sha256
    with pytest.raises(ValueError, match="rounds is 3, the checkpoint has played 4"):
        small("fedavg", rounds=3, checkpoint=tmp_path, resume=True)


def test_a_cosine_keeps_its_end_when_more_rounds_follow(small, tmp_path, caplog):
    first = small("hidenseek", rounds=2, checkpoint=tmp_path)
    more = small("hidenseek", rounds=4, checkpoint=tmp_path, resume=True)
    assert more.config["options"]["lr_horizon"] == 2
    assert "the learning rate is 0 after round 2" in caplog.text
    whole = small("hidenseek", rounds=4, options={"lr_horizon": 2})
    assert more.model_sha256 == whole.model_sha256
    assert [entry.round for entry in more.ledger.rounds] == [1, 2, 3, 4]
    assert first.model_sha256 == small("hidenseek", rounds=2).model_sha256
    with pytest.raises(ValueError, match=r"options\.lr_horizon is 4, there it was 2"):
        small("hidenseek", rounds=4, options={"lr_horizon": 4}, checkpoint=tmp_path, resume=True)


def test_a_longer_cosine_leaves_room_for_rounds(small, tmp_path):
    small("hidenseek", rounds=2, options={"lr_horizon": 4}, checkpoint=tmp_path)
    more = small("hidenseek", rounds=4, checkpoint=tmp_path, resume=True)
    assert more.model_sha256 == small("hidenseek", rounds=4).model_sha256


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"seed": 5}, "seed is 5, there it was 0"),
        ({"method": "fedpt"}, "method"),
        ({"options": {"lr": 0.2}}, "options.lr is 0.2, there it was 0.05"),
        ({"schedule": Schedule(batch_size=8)}, "batch_size is 8, there it was 16"),
        ({"model": "norm_net"}, "norm"),
        ({"clients": 2}, "clients is 2, there it was 3"),
        ({"clients": "others"}, "examples"),
        ({"clients": "labels"}, "train_sha256.clients[1] is"),
        ({"clients": "inputs"}, "train_sha256.clients[1] is"),
        ({"clients": "items"}, "train_sha256.clients[1] is"),
        ({"clients": "dev"}, "dev_sha256.clients[1] is"),
        ({"dev": "other"}, "server_dev_sha256 is"),
        ({"threads": 1}, "threads"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_another_run_is_refused_by_its_key(change, key, small, toy, clients, tmp_path):
    if "model" in change:
        change = {"model": getattr(toy, change["model"])}
    if "clients" in change:
        x, y = clients[1][0].tensors
        second = {
            "labels": TensorDataset(x, (y + 1) % 3),
            "inputs": TensorDataset(-x, y),
            "items": list(zip(x, (y + 1) % 3, strict=True)),
        }
        rest = {
            kind: [clients[0], (data, clients[1][1]), clients[2]] for kind, data in second.items()
        }
        rest["dev"] = [clients[0], (clients[1][0], clients[0][1]), clients[2]]
        rest["others"] = [*clients[:2], (clients[0][0], clients[2][1])]
        rest[2] = clients[:2]
        change = {"clients": rest[change["clients"]]}
    if "dev" in change:
        change = {"dev": clients[0][1]}
    small("fedavg", rounds=1, threads=2, checkpoint=tmp_path)
    before = (tmp_path / FILE).read_bytes()
    arguments = {"method": "fedavg", "threads": 2, **change}
    with pytest.raises(ValueError, match="of another run") as caught:
        small(**arguments, rounds=1, checkpoint=tmp_path, resume=True)
    assert key in str(caught.value)
    assert (tmp_path / FILE).read_bytes() == before


def test_other_test_data_may_judge_a_run_that_goes_on(small, toy, clients, tmp_path):
    small("fedavg", rounds=1, checkpoint=tmp_path)
    judged = [(*parts, toy.clusters(9, 3)) for parts in clients]
    other = {"clients": judged, "test": toy.clusters(50, 4)}
    more = small("fedavg", **other, rounds=2, checkpoint=tmp_path, resume=True)
    assert len(more.ledger.rounds) == 2


class Noisy:
    """A dataset whose inputs are drawn anew at each read."""

    def __init__(self, dataset):
        self.dataset, self.generator = dataset, np.random.default_rng(3)

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        x, y = self.dataset[index]
        return x + self.generator.random(dtype=np.float32), y


def test_data_that_augment_by_a_generator_of_their_own_are_resumed(small, clients, tmp_path):
    noisy = [(Noisy(train), dev) for train, dev in clients]
    small("fedavg", clients=noisy, rounds=1, checkpoint=tmp_path)
    more = small("fedavg", clients=noisy, rounds=2, checkpoint=tmp_path, resume=True)
    assert len(more.ledger.rounds) == 2


def test_a_client_whose_disk_is_gone_is_no_other_client(small, clients, tmp_path):
    class Gone(Noisy):
        def __getitem__(self, index):
            raise OSError("disk gone")

    broken = [*clients[:2], (Gone(clients[2][0]), clients[2][1])]
    small("fedavg", clients=broken, rounds=1, checkpoint=tmp_path)
    more = small("fedavg", clients=broken, rounds=2, checkpoint=tmp_path, resume=True)
    assert [entry.lost for entry in more.ledger.rounds] == [1, 1]


def test_a_run_is_neither_overwritten_nor_missed(small, tmp_path):
    small("fedavg", rounds=1, checkpoint=tmp_path, resume=True)
    with pytest.raises(ValueError, match="resume=True"):
        small("fedavg", rounds=1, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="resume needs checkpoint"):
        small("fedavg", rounds=1, resume=True)


@pytest.mark.parametrize("damage", ["cut", "empty", "other file", "flipped"])
def test_a_damaged_checkpoint_is_named(damage, small, tmp_path):
    small("fedavg", rounds=1, checkpoint=tmp_path)
    path = tmp_path / FILE
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(
        {
            "cut": whole[:-100],
            "empty": b"",
            "other file": b"not a checkpoint",
            "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        }[damage]
    )
    with pytest.raises(ValueError, match="damaged"):
        small("fedavg", rounds=1, checkpoint=tmp_path, resume=True)


def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path):
    checkpoint = Checkpoint(tmp_path, {"a": 1})
    checkpoint.save({"value": torch.arange(3)})
    whole = checkpoint.path.read_bytes()
    damaged = [whole[:size] for size in range(0, len(whole), 13)]
    for position in range(len(whole)):
        flipped = bytes([whole[position] ^ (1 << position % 8)])
        damaged.append(whole[:position] + flipped + whole[position + 1 :])
    for content in damaged:
        checkpoint.path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged"):
            checkpoint.load()


def test_a_checkpoint_without_a_digest_is_named_as_an_older_one(tmp_path):
    checkpoint = Checkpoint(tmp_path, {})
    torch.save({"format": 2, "config": "{}", "run": {}}, checkpoint.path)
    with pytest.raises(ValueError, match=r"checkpoint\.pt has a format before 3"):
        checkpoint.load()


def test_a_crash_while_writing_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path, {"a": 1})
    checkpoint.save({"value": 1})

    def crash(*_, **__):
        raise KilledError

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(KilledError):
        checkpoint.save({"value": 2})
    assert checkpoint.load() == {"value": 1}


def test_everything_a_state_holds_comes_back(tmp_path):
    mask = torch.rand(5, 7) < 0.3
    run = {
        "numbers": [1, 2.5, None, True, "text", (3, 4), {5, 6}, np.float64(0.25), np.int64(7)],
        "tensors": {"a": torch.randn(3, dtype=torch.float64), 3: torch.tensor(2)},
        "array": np.arange(6, dtype=np.uint8).reshape(2, 3),
        "support": Support.from_mask(mask),
        "schema": Schema({"w": ((2, 3), "float32"), "n": ((), "int64")}),
        "ledger": Ledger(0.5, [Round(1, clients=3, accuracy=0.75)]),
    }
    checkpoint = Checkpoint(tmp_path / "new", {"x": 1})
    assert checkpoint.load() is None
    checkpoint.save(run)
    found = checkpoint.load()
    assert found["numbers"] == run["numbers"]
    assert torch.equal(found["tensors"]["a"], run["tensors"]["a"])
    assert found["tensors"][3].dtype == torch.int64
    assert found["array"].tolist() == run["array"].tolist()
    assert found["array"].dtype == np.uint8
    assert all(found[name] == run[name] for name in ("support", "schema", "ledger"))


def test_what_is_not_plain_is_refused():
    with pytest.raises(TypeError, match="cannot hold a function"):
        to_plain({"f": kill_after})
    with pytest.raises(ValueError, match="cannot hold a Popen of subprocess"):
        from_plain({"kind": "record", "type": ["subprocess", "Popen"], "fields": []})
    with pytest.raises(ValueError, match="cannot hold a to_plain"):
        from_plain({"kind": "record", "type": ["sparsefl.fl.checkpoint", "to_plain"], "fields": []})
