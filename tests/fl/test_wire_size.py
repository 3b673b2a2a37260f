"""What the EMNIST CNN's messages weigh: the byte claims, headers included."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from sparsefl import fl, models
from sparsefl.fl import Schedule

CLASSES = 62


def one_round(method: str, norm: models.Norm = None, **options: object) -> fl.Result:
    """Plays one round of one client and one step: a message does not grow with the work in it."""
    data = TensorDataset(torch.randn(4, 1, 28, 28), torch.arange(4))
    return fl.run(
        method,
        model=lambda: models.build("cnn", (1, 28, 28), CLASSES, norm),
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


@pytest.mark.parametrize("dense_layers", ["first,last", ""], ids=["outer dense", "all signed"])
def test_hidenseek_sends_one_bit_a_kept_weight_and_its_dense_parameters(dense_layers):
    options = {"iterations": 10, "dense_layers": dense_layers}
    row = one_round("hidenseek", density=0.1, options=options).row()
    model = dense_model()
    signed = {"conv2.weight", "fc1.weight"} if dense_layers else weights_of(model)
    dense = sum(p.numel() for n, p in model.named_parameters() if n not in signed)
    claimed_bits = 8 * row["uplink_claimed_bytes"] - 32 * dense
    kept = 0.1 * sum(model.get_parameter(name).numel() for name in weights_of(model))
    assert 0.93 * kept <= claimed_bits <= kept + 8
    # Less than that where dense values and flips of signs take fewer bits than they are.
    assert (8 * row["uplink_bytes"] - 32 * dense) / claimed_bits <= 1.03


def weights_of(model: nn.Module) -> set[str]:
    return {name for name, _ in model.named_parameters() if "weight" in name}


@pytest.mark.parametrize("method", fl.METHODS)
def test_claimed_bytes_are_realised(method):
    quick = {"density": 0.1, "options": {"iterations": 10}} if method == "hidenseek" else {}
    row = one_round(method, norm="batch" if method == "adp" else None, **quick).row()
    assert row["uplink_claimed_bytes"] / row["uplink_bytes"] >= 0.95
    # Signs come in runs: in a random order they would take as many bytes as their bound.
    assert row["uplink_bytes"] >= 0.8 * row["uplink_bound_bytes"]
