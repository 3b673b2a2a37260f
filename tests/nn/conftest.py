"""Dense layers, masks and inputs for the tests of the layers that replace them."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import sparsefl


@dataclass(frozen=True)
class Case:
    """A dense layer and the shape of an input to it."""

    make: Callable[[], nn.Module]
    input_shape: tuple[int, ...]


# The first and the third are wide enough for the kernels to store their weights in blocks, that is
# not row-major: a forgotten conversion fails there.
CASES = {
    "linear": Case(lambda: nn.Linear(300, 17), (9, 300)),
    "linear-no_bias": Case(lambda: nn.Linear(7, 5, bias=False), (1, 7)),
    "conv": Case(lambda: nn.Conv2d(40, 5, 3, padding=1), (6, 40, 7, 8)),
    "conv-no_bias": Case(lambda: nn.Conv2d(4, 3, (2, 3), stride=2, bias=False), (2, 4, 6, 7)),
}
KINDS = {
    ("sparse", nn.Linear): sparsefl.nn.SparseLinear,
    ("sparse", nn.Conv2d): sparsefl.nn.SparseConv2d,
    ("sign", nn.Linear): sparsefl.nn.SignLinear,
    ("sign", nn.Conv2d): sparsefl.nn.SignConv2d,
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request) -> Case:
    return request.param


@pytest.fixture(params=["sparse", "sign"])
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def random_mask() -> Callable[..., Tensor]:
    def draw(shape: tuple[int, ...], density: float = 0.3, seed: int = 1) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(tuple(shape), generator=generator) < density

    return draw


@pytest.fixture(scope="session")
def convert() -> Callable[..., nn.Module]:
    """Returns the conversion of one dense layer into a sparse or a sign layer."""

    def from_dense(dense: nn.Module, mask: Tensor, kind: str = "sparse", **options) -> nn.Module:
        return KINDS[kind, type(dense)].from_dense(dense, mask, **options)

    return from_dense


@pytest.fixture(scope="session")
def latent() -> Callable[[nn.Module], nn.Parameter]:
    """Returns the flat Parameter of a layer with a support."""
    return lambda layer: getattr(layer, layer.latent_name)


@pytest.fixture
def sparse_of(random_mask) -> Callable[[nn.Module], nn.Module]:
    """Returns the conversion of a model with a random mask on each convolution."""

    def convert(model: nn.Module) -> nn.Module:
        masks = {
            f"{name}.weight": random_mask(module.weight.shape, 0.5, seed)
            for seed, (name, module) in enumerate(model.named_modules())
            if isinstance(module, nn.Conv2d)
        }
        return sparsefl.sparsify(model, masks)

    return convert
