import dataclasses
import functools
import hashlib
import json
import math

import pytest
import torch

from sparsefl.fl import METHODS, Description, Schedule, load_method
from sparsefl.fl.flops import forward_flops
from sparsefl.fl.result import model_sha256, summarise_clients
from sparsefl.fl.training import accuracy


def test_same_seed_same_model_other_seed_another(method, small):
    first, second, other = (small(method, seed=s) for s in (3, 3, 4))
    assert first.model_sha256 == second.model_sha256 != other.model_sha256
    assert first.ledger.sums()["uplink_bytes"] == second.ledger.sums()["uplink_bytes"]


def test_dropout_and_norms_are_deterministic_too(method, toy, small):
    runs = [small(method, model=toy.norm_net) for _ in range(2)]
    assert runs[0].model_sha256 == runs[1].model_sha256
    assert runs[0].row()["norm"] == "batch"


def test_every_method_learns_the_clusters(method, small):
    # A ticket goes back to its start six times on its way to this density.
    rounds = 25 if method == "lotteryfl" else 15
    result = small(method, rounds=rounds)
    assert result.accuracy > 0.8
    assert result.accuracy_per_client["mean"] > 0.7
    assert [entry.round for entry in result.ledger.rounds] == list(range(1, rounds + 1))
    assert result.ledger.rounds[-1].accuracy > 0.7


def test_dev_data_gives_the_curve_and_test_data_the_result(toy, small):
    dev = toy.clusters(30, 5)
    result = small("fedavg", dev=dev, rounds=5, evaluate_every=2)
    evaluated = [entry.round for entry in result.ledger.rounds if entry.accuracy is not None]
    assert evaluated == [2, 4, 5]
    assert all(round(30 * accuracy) / 30 == accuracy for _, accuracy in result.ledger.curve())


class Counted(torch.utils.data.Dataset):
    """Counts how often each example was read."""

    def __init__(self, dataset):
        self.dataset, self.reads = dataset, [0] * len(dataset)

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        self.reads[index] += 1
        return self.dataset[index]


def test_rounds_are_judged_by_the_clients_own_dev_data_together(small, clients):
    result = small("fedavg", rounds=1, test=torch.utils.data.Subset(clients[0][1], [0]))
    own = [accuracy(result.model, dev) for _, dev in clients]
    assert result.ledger.rounds[0].accuracy == pytest.approx(sum(own) / 3)


def test_the_test_set_is_read_once(small, clients, test_data, toy):
    test = Counted(test_data)
    small("fedavg", test=test)
    # The first example's label is compared with the model's classes besides.
    assert test.reads == [2] + [1] * 199
    without = [(train, toy.clusters(0, 1)) for train, _ in clients]
    result = small("fedavg", clients=without, test=test)
    assert test.reads == [4] + [2] * 199
    assert [entry.accuracy for entry in result.ledger.rounds] == [None] * 3
    assert result.accuracy > 0.5


def test_row_table_and_files(method, tmp_path, small):
    seen = []
    result = small(method, timed_steps=3, on_round=seen.append)
    row = result.row()
    assert row["density"] == (0.3 if method in ("fedtiny", "hidenseek", "lotteryfl") else 1.0)
    assert row["client_step_s"] > 0
    assert row["client_peak_bytes"] is None
    assert seen == result.ledger.rounds
    assert method in result.table()
    result.save(tmp_path / "run")
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1, 2, 3]
    report = json.loads((tmp_path / "run" / "result.json").read_text())
    assert report["model_sha256"] == model_sha256(result.model)
    assert report["ledger"]["uplink_bytes"] == row["uplink_bytes"]
    result.plot(tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("network", ["cnn", "norm_net"])
def test_the_saved_model_loads_into_the_users_network(method, network, toy, small, tmp_path):
    result = small(method, model=getattr(toy, network), rounds=1)
    result.save(tmp_path)
    loaded = getattr(toy, network)()
    loaded.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert model_sha256(loaded) == result.model_sha256


def test_dense_bytes_are_those_of_every_message_sent(toy, small):
    result = small("fedavg")
    parameters = sum(p.numel() for p in toy.cnn().parameters())
    assert result.costs.uplink_dense_bytes == 4 * parameters * 9
    assert result.costs.downlink_dense_bytes == 4 * parameters * 9
    assert result.costs.uplink_claimed_bytes == 4 * parameters * 9


def test_memory_is_measured_in_a_fresh_process(clients, toy, small):
    cell = {
        "factory": "torch.nn:Linear",
        "arguments": {"in_features": 64, "out_features": toy.classes},
        "input_shape": [64],
        "classes": toy.classes,
    }

    def flat(examples, seed):
        inputs, labels = toy.clusters(examples, seed).tensors
        return torch.utils.data.TensorDataset(inputs.flatten(1), labels)

    result = small(
        "fedavg",
        clients=[(flat(20, 1), flat(5, 2))],
        test=flat(10, 3),
        model=lambda: torch.nn.Linear(64, toy.classes),
        rounds=1,
        description=Description(memory_cell=cell),
    )
    memory = result.costs.client_memory
    assert memory.parameters_bytes == 4 * 65 * toy.classes
    assert memory.gradients_bytes == memory.parameters_bytes
    assert memory.optimizer_bytes >= memory.parameters_bytes
    assert memory.peak_bytes > 0
    assert result.row()["dense_peak_bytes"] == result.costs.dense_memory.peak_bytes


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"rounds": 0}, ValueError, "rounds"),
        ({"schedule": Schedule(batch_size=0)}, ValueError, "batch_size"),
        ({"schedule": Schedule(local_steps=0)}, ValueError, "local_steps"),
        ({"density": 0.0}, ValueError, "density"),
        ({"seed": -1}, ValueError, r"seed must lie in \[0, 2\*\*64\)"),
        ({"evaluate_every": -1}, ValueError, "evaluate_every"),
        ({"rounds": 2.0}, TypeError, "rounds must be a whole number, got 2.0"),
        ({"evaluate_every": 0.5}, TypeError, "evaluate_every"),
        ({"seed": "1"}, TypeError, "seed must be a whole number"),
        ({"seed": 2**64}, ValueError, "seed"),
        ({"timed_steps": -1}, ValueError, "timed_steps must be at least 0"),
        ({"timed_steps": 2.5}, TypeError, "timed_steps"),
        ({"threads": 0}, ValueError, "threads"),
        ({"device": "gpu"}, ValueError, "device must be 'cpu', 'cuda' or 'cuda:N', got 'gpu'"),
        ({"device": "meta"}, ValueError, "device must be 'cpu', 'cuda' or 'cuda:N', got meta"),
        ({"device": "cuda:99"}, ValueError, r"device is cuda:99, but torch \S+ sees \d+ CUDA"),
        ({"schedule": Schedule(batch_size=2.5)}, TypeError, "batch_size must be a whole number"),
        ({"schedule": Schedule(clients_per_round=True)}, TypeError, "clients_per_round"),
        ({"options": {"momentun": 0.1}}, ValueError, "momentun"),
        ({"model": lambda: "net"}, TypeError, "nn.Module"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bad_arguments_are_named(change, error, says, small):
    with pytest.raises(error, match=says):
        small("hidenseek", **change)


@pytest.mark.parametrize(
    "change",
    [
        {"schedule": Schedule(batch_size=2.5)},
        {"timed_steps": -1},
        {"options": {"lr": -0.1}},
        {"options": {"lr_step": 0}},
    ],
    ids=str,
)
def test_nothing_is_built_for_bad_arguments(change, small):
    def factory():
        raise AssertionError("built")

    with pytest.raises((TypeError, ValueError)):
        small("fedavg", model=factory, **change)


@pytest.mark.parametrize("method", [name for name in METHODS if load_method(name).prunes])
@pytest.mark.parametrize("density", [-1, 0, 1.5, math.nan, math.inf, True, "0.1", None], ids=str)
def test_methods_that_prune_refuse_what_is_no_density_before_a_model_is_built(
    method, density, small
):
    def factory():
        raise AssertionError("built")

    with pytest.raises((TypeError, ValueError), match=r"density must be .*in \(0, 1\], got"):
        small(method, density=density, model=factory)


def test_bad_clients_are_named(clients, small):
    with pytest.raises(ValueError, match="clients"):
        small("fedavg", clients=[])
    with pytest.raises(TypeError, match="map-style"):
        small("fedavg", clients=[(iter([]), clients[0][1])])


def test_worst_decile_is_at_least_one_client():
    summary = {"mean": 0.75, "worst_decile": 0.5, "each": [0.5, 1.0, None]}
    assert summarise_clients([0.5, 1.0, float("nan")]) == summary
    many = [i / 100 for i in range(30)]
    assert summarise_clients(many)["worst_decile"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool],
    ids=str,
)
def test_fingerprint_is_of_name_dtype_shape_and_bytes(dtype):
    holder = torch.nn.Module()
    tensors = {"b": torch.arange(6).reshape(2, 3).T, "a": torch.tensor(3), "c": torch.empty(0, 4)}
    expected = hashlib.sha256()
    for name, tensor in tensors.items():
        holder.register_buffer(name, tensor.to(dtype))
    for name in sorted(tensors):
        held = tensors[name].to(dtype)
        expected.update(f"{name} {dtype} {tuple(held.shape)}\n".encode())
        expected.update(held.contiguous().numpy().tobytes())
    assert model_sha256(holder) == expected.hexdigest()


@pytest.mark.parametrize("method", ["fedavg", "fedpt"])
def test_a_bfloat16_model_ends_in_a_result(method, toy, small):
    runs = [small(method, model=lambda: toy.cnn().to(torch.bfloat16), rounds=1) for _ in range(2)]
    assert next(runs[0].model.parameters()).dtype == torch.bfloat16
    assert runs[0].model_sha256 == runs[1].model_sha256 != small(method, rounds=1).model_sha256


def test_an_own_method_and_an_own_loss_are_taken(small):
    fedavg = load_method("fedavg")
    named = dataclasses.replace(fedavg, name="slow", defaults={**fedavg.defaults, "lr": 0.01})
    result = small(named, timed_steps=1)
    assert result.method == result.row()["method"] == "slow"
    assert result.model_sha256 == small("fedavg", options={"lr": 0.01}).model_sha256
    with pytest.raises(ValueError, match="memory_cell must be None for 'slow'"):
        small(named, description=Description(memory_cell={}))


def test_clients_minimise_the_loss_that_is_given(small, tmp_path):
    def doubled(outputs, labels):
        return 2 * torch.nn.functional.cross_entropy(outputs, labels)

    options = {"lr": 0.02, "momentum": 0.0}
    result = small("fedavg", loss=doubled, options=options, timed_steps=1, checkpoint=tmp_path)
    plain = small("fedavg", options={**options, "lr": 0.04})
    for ours, theirs in zip(result.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert result.ledger.rounds[0].loss == pytest.approx(2 * plain.ledger.rounds[0].loss)
    with pytest.raises(ValueError, match=r"loss is 'cross_entropy', there it was '.*doubled'"):
        small("fedavg", options=options, checkpoint=tmp_path, resume=True)


def weighted(outputs, labels, *, weights, by=None):
    return torch.nn.functional.cross_entropy(outputs, labels, weights)


def test_a_loss_with_other_arguments_is_another_run(small, tmp_path):
    class Scale:
        pass

    def loss(last):
        weights = torch.tensor([1.0, 1.0, last])
        return functools.partial(weighted, weights=weights, by=[Scale(), weighted])

    small("fedavg", loss=loss(1.0), rounds=1, checkpoint=tmp_path)
    same = small("fedavg", loss=loss(1.0), rounds=1, checkpoint=tmp_path, resume=True)
    assert same.config["loss"].startswith("partial(weighted, by=[<")
    with pytest.raises(ValueError, match=r"loss is .*1\.000\d+\].*, there it was .*1\.0\]"):
        small("fedavg", loss=loss(1.00001), rounds=1, checkpoint=tmp_path, resume=True)


def test_forward_flops_by_shapes(toy):
    counts = forward_flops(toy.cnn(), torch.zeros(1, *toy.pixels), batch_size=5)
    assert counts == {
        "0.weight": 2 * 5 * 4 * 36 * 9,
        "4.weight": 2 * 5 * 24 * 36,
        "6.weight": 2 * 5 * 24 * 3,
    }
