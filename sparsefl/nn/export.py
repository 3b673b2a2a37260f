"""From a trained model with sign layers to a small file and a fast model for inference."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from sparsefl.nn._replace import copy_replacing
from sparsefl.nn._state import BITMAP
from sparsefl.nn._support_layer import SupportLayer
from sparsefl.nn.fused import restore_torch
from sparsefl.nn.packed_sign import SIGNS, PackedSignConv2d, PackedSignLayer, PackedSignLinear
from sparsefl.nn.sign import SignConv2d, SignLinear
from sparsefl.nn.sparse import SparseConv2d
from sparsefl.ops.packed_sign import Activations


def export_sign(
    model: nn.Module, activations: Activations = "float32", batch_size: int = 1
) -> nn.Module:
    """Return a copy of ``model`` for inference whose sign layers hold packed signs alone.

    In evaluation mode, without gradients; ``model`` is left as it is. The state_dict takes 1 +
    density bits a weight of those layers::

        small = sparsefl.export_sign(model)
        torch.save(small.state_dict(), "model.pt")
        small = sparsefl.load_sign(Net(), torch.load("model.pt"))

    In memory their weights take 1.8 bits each, or 16 bits each kept one at low densities: see
    ``layer.signs.nbytes``. Other layers stay as they are.

    Args:
        model: A model that holds :class:`sparsefl.nn.SignLinear` or
            :class:`sparsefl.nn.SignConv2d`, each with one magnitude for all its weights.
        activations: ``"float32"``: the same outputs up to rounding. ``"int8"``: the inputs of the
            packed layers are rounded to 255 levels, which about halves the time of large layers.
        batch_size: The batch that memory layouts are chosen for; every other works too.

    Raises:
        TypeError: if ``model`` is no ``nn.Module``, or a sign layer is not float32.
        ValueError: if it holds no sign layer, one has more than one magnitude, or an argument is
            out of range.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    replaced: dict[nn.Module, nn.Module] = {}
    for name, module in model.named_modules():
        kind = _packed_type(module)
        if kind is None:
            continue
        try:
            replaced[module] = kind.from_sign(module, activations, batch_size)
        except ValueError as error:
            raise ValueError(f"{name or 'the model'}: {error}") from None
    if not replaced:
        raise ValueError(
            f"this {type(model).__name__} holds no sign layer to pack: make some with "
            "sparsefl.sparsify(model, masks, layer='sign') and train them"
        )
    return _for_inference(copy_replacing(model, replaced))


def load_sign(
    model: nn.Module,
    state_dict: Mapping[str, Any],
    activations: Activations = "float32",
    batch_size: int = 1,
) -> nn.Module:
    """Return a copy of ``model`` for inference with the weights that :func:`export_sign` packed.

    Args:
        model: A model of the same architecture, in plain torch.nn or with sign layers; its weights
            do not matter, and it is left as it is.
        state_dict: The state_dict of an exported model.
        activations: As in :func:`export_sign`.
        batch_size: As in :func:`export_sign`.

    Raises:
        TypeError: if ``model`` is no ``nn.Module``, or a packed weight belongs to a layer of
            another type.
        ValueError: if no weight in ``state_dict`` is packed, or an argument is out of range.
        RuntimeError: if ``state_dict`` does not fit ``model``, as ``load_state_dict`` has it.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    names = [
        key.removesuffix(SIGNS).removesuffix(".")
        for key in state_dict
        if key.rpartition(".")[2] == SIGNS and key.removesuffix(SIGNS) + BITMAP in state_dict
    ]
    if not names:
        raise ValueError("state_dict holds no packed weight: save that of sparsefl.export_sign")
    modules = dict(model.named_modules())
    replaced: dict[nn.Module, nn.Module] = {}
    for name in names:
        if name not in modules:
            raise ValueError(f"state_dict packs {name!r}, which {type(model).__name__} lacks")
        replaced[modules[name]] = _empty_packed(name, modules[name], activations, batch_size)
    twin = copy_replacing(model, replaced)
    twin.load_state_dict(state_dict)
    return _for_inference(twin)


def _packed_type(module: nn.Module) -> type[PackedSignLinear] | type[PackedSignConv2d] | None:
    if isinstance(module, SignLinear):
        return PackedSignLinear
    return PackedSignConv2d if isinstance(module, SignConv2d) else None


def _empty_packed(
    name: str, module: Any, activations: Activations, batch_size: int
) -> PackedSignLayer:
    kind: type[PackedSignLinear] | type[PackedSignConv2d]
    if isinstance(module, nn.Linear | PackedSignLinear) or _packed_type(module) is PackedSignLinear:
        kind = PackedSignLinear
    elif (
        isinstance(module, nn.Conv2d | PackedSignConv2d) or _packed_type(module) is PackedSignConv2d
    ):
        kind = PackedSignConv2d
    else:
        raise TypeError(f"state_dict packs {name!r}, which is a {type(module).__name__}")
    sizes = kind._sizes_of(module)
    bias = isinstance(getattr(module, "bias", None), Tensor)
    return kind(**sizes, bias=bias, activations=activations, batch_size=batch_size)


def _for_inference(model: nn.Module) -> nn.Module:
    """Freeze the model; its packed convolutions give row-major tensors, as torch's own do."""
    if not any(isinstance(m, SparseConv2d | SignConv2d | SupportLayer) for m in model.modules()):
        restore_torch(model)
    return model.requires_grad_(False).eval()
