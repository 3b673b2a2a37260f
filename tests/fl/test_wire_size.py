"""What the EMNIST CNN's messages weigh: the byte claims, headers included."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from sparsefl import fl, models
from sparsefl.fl import Schedule

CLASSES = 62


def one_round(method: str, **options: object) -> fl.Result:
    """Plays one round of one client and one step: a message does not grow with the work in it."""
    data = TensorDataset(torch.randn(4, 1, 28, 28), torch.arange(4))
    return fl.run(
        method,
        model=lambda: models.build("cnn", in_shape=(1, 28, 28), num_classes=CLASSES),
        clients=[(data, data)],
        test=data,
        rounds=1,
        seed=0,
        schedule=Schedule(batch_size=4, local_steps=1),
        **options,
    )


def dense_model() -> nn.Module:
    return models.build("cnn", in_shape=(1, 28, 28), num_classes=CLASSES)


def test_fedpt_sends_its_trainable_parameters_and_little_else():
    result = one_round("fedpt")
    total = sum(p.numel() for p in dense_model().parameters())
    frozen = dense_model().fc1.weight.numel()
    factor = 4 * total / result.row()["uplink_bytes"]
    assert factor >= 44
    assert factor >= 0.97 * total / (total - frozen)


def test_hidenseek_sends_one_bit_a_kept_weight():
    result = one_round("hidenseek", density=0.1, options={"iterations": 10})
    weights = sum(p.numel() for n, p in dense_model().named_parameters() if "weight" in n)
    kept = round(0.1 * weights)
    bits = 8 * result.row()["uplink_bytes"] / kept
    assert 1.0 <= bits <= 1.03


@pytest.mark.parametrize("method", ["fedavg", "fedpt", "hidenseek"])
def test_claimed_bytes_are_realised(method):
    density = {"density": 0.1, "options": {"iterations": 10}} if method == "hidenseek" else {}
    row = one_round(method, **density).row()
    assert row["uplink_claimed_bytes"] / row["uplink_bytes"] >= 0.95
    assert row["uplink_bytes"] >= row["uplink_bound_bytes"]
