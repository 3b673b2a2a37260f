"""What FedPT puts in the place of frozen layers."""

import torch
from torch import Tensor, nn

from sparsefl.nn import FrozenConv2d, FrozenLinear, use_bit_relu


def freeze(model: nn.Module, names: tuple[str, ...], seed: int, plain: bool = False) -> nn.Module:
    """Replace layers by frozen ones whose weights come from ``seed``, in place; biases are kept.

    So are bits, where a ReLU in front of them would keep its output for no other layer.

    Args:
        model: Changed in place.
        names: Names of the weights.
        seed: What they stand for.
        plain: Whether layers stay torch's own, their weights without ``requires_grad``.
    """
    with torch.random.fork_rng(devices=[]):
        for name in names:
            _freeze_one(model, name, seed, plain)
    if not plain:
        use_bit_relu(model)
    return model


def _freeze_one(model: nn.Module, name: str, seed: int, plain: bool) -> None:
    layer_name = name.rpartition(".")[0]
    dense = model.get_submodule(layer_name)
    frozen: FrozenLinear | FrozenConv2d
    if isinstance(dense, nn.Linear | FrozenLinear):
        linear = dense if isinstance(dense, nn.Linear) else dense.to_dense()
        frozen = FrozenLinear.replacing(linear, seed=seed, name=name)
    else:
        assert isinstance(dense, nn.Conv2d | FrozenConv2d)
        conv = dense if isinstance(dense, nn.Conv2d) else dense.to_dense()
        frozen = FrozenConv2d.replacing(conv, seed=seed, name=name)
    if not plain:
        model.set_submodule(layer_name, frozen)
        return
    layer = frozen.to_dense()
    layer.weight.requires_grad_(False)
    model.set_submodule(layer_name, layer)


def frozen_layers(model: nn.Module) -> dict[str, nn.Module]:
    """List the layers that are frozen already, by the name of their weight."""
    return {
        f"{name}.weight": layer
        for name, layer in model.named_modules()
        if isinstance(layer, FrozenLinear | FrozenConv2d)
    }


def trainable_tensors(model: nn.Module, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Return what travels: every parameter and buffer but the frozen weights."""
    skipped = {f"{name.rpartition('.')[0]}." for name in names}
    return {
        name: value
        for name, value in model.state_dict().items()
        if name.endswith(".bias") or not any(name.startswith(prefix) for prefix in skipped)
    }
