"""The models by name."""

from collections.abc import Callable

from torch import nn

from sparsefl.models._normalisation import Norm
from sparsefl.models.cnn import cnn
from sparsefl.models.linear import linear
from sparsefl.models.mlp import mlp

_FACTORIES: dict[str, Callable[[tuple[int, int, int], int, Norm], nn.Module]] = {
    "linear": linear,
    "mlp": mlp,
    "cnn": cnn,
}
NAMES = tuple(_FACTORIES)


def build(
    name: str, in_shape: tuple[int, int, int], num_classes: int, norm: Norm = None
) -> nn.Module:
    """Return a freshly initialised model.

    Args:
        name: One of ``NAMES``.
        in_shape: Channels, height and width of an image.
        num_classes: Size of the output.
        norm: Normalisation after each hidden layer: ``"batch"``, ``"group"`` or None.

    Raises:
        ValueError: if there is no such model, or it does not take these sizes or this norm.
    """
    if name not in _FACTORIES:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
    return _FACTORIES[name](in_shape, num_classes, norm)
