"""What both frozen layers share: the weight from its seed, functions that keep no input."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.grad import conv2d_input

from sparsefl import random

Pair: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class SeededWeight:
    """What a frozen weight is made of.

    Attributes:
        seed: Seed of the stream, ``0 <= seed < 2**64``.
        name: Name of the stream.
        shape: Shape of the weight.
        std: Standard deviation of the weight.
    """

    seed: int
    name: str
    shape: tuple[int, ...]
    std: float

    def draw(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return the weight: drawn in float32 on the CPU, then converted and moved."""
        if device.type == "meta":
            return torch.empty(self.shape, device=device, dtype=dtype)
        values = random.normal(self.seed, self.name, self.shape, self.std)
        return torch.from_numpy(values).to(device, dtype)


# Where a function gets the weight from: the one that is kept, or a new draw.
Source: TypeAlias = Callable[[torch.device, torch.dtype], Tensor]


class _RegeneratedLinear(torch.autograd.Function):
    """``x @ weight.T + bias`` that keeps nothing: the weight is drawn again for the gradient."""

    @staticmethod
    def forward(x: Tensor, bias: Tensor | None, source: Source) -> Tensor:
        return functional.linear(x, source(x.device, x.dtype), bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, _, ctx.source = inputs

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs_x, needs_bias, _ = ctx.needs_input_grad
        grad_x = grad @ ctx.source(grad.device, grad.dtype) if needs_x else None
        grad_bias = grad.reshape(-1, grad.shape[-1]).sum(0) if needs_bias else None
        return grad_x, grad_bias, None


class _FrozenConvolution(torch.autograd.Function):
    """A convolution that does not keep its input: only a weight gradient would need it."""

    @staticmethod
    def forward(
        x: Tensor,
        bias: Tensor | None,
        source: Source,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        groups: int,
    ) -> Tensor:
        weight = source(x.device, x.dtype)
        return functional.conv2d(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, _, ctx.source, *ctx.geometry = inputs
        ctx.input_shape = x.shape

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs_x, needs_bias, *_ = ctx.needs_input_grad
        grad_x = None
        if needs_x:
            weight = ctx.source(grad.device, grad.dtype)
            grad_x = conv2d_input(  # type: ignore[no-untyped-call]
                ctx.input_shape, weight, grad, *ctx.geometry
            )
        grad_bias = grad.sum((0, 2, 3)) if needs_bias else None
        return grad_x, grad_bias, None, None, None, None, None


# torch.compile breaks the graph here: it can trace neither a draw nor a function that keeps one.
@torch.compiler.disable
def regenerated_linear(x: Tensor, bias: Tensor | None, source: Source) -> Tensor:
    """Return ``x @ weight.T + bias``, ``[..., out]``, with nothing kept for the backward pass."""
    output: Tensor = _RegeneratedLinear.apply(x, bias, source)  # type: ignore[no-untyped-call]
    return output


@torch.compiler.disable
def frozen_convolution(
    x: Tensor,
    bias: Tensor | None,
    source: Source,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Tensor:
    """Return the convolution of ``x``, ``[N, C, H, W]``, which the backward pass does without."""
    output: Tensor = _FrozenConvolution.apply(  # type: ignore[no-untyped-call]
        x, bias, source, stride, padding, dilation, groups
    )
    return output


class FrozenLayer(nn.Module):
    """What both frozen layers share: the weight from its seed, a dense trainable bias.

    ``state_dict`` holds the bias alone; its metadata name seed, stream and std, and a state_dict of
    another frozen weight is refused. A dense ``weight`` is accepted if it is this one, bit for bit.
    """

    # The dense parameter that the module stands for, in schemas and messages.
    dense_name: ClassVar[str] = "weight"

    bias: nn.Parameter | None
    _kept: Tensor | None
    _like: Tensor

    def _freeze(
        self,
        shape: tuple[int, ...],
        bias: bool,
        seed: int,
        name: str,
        regenerate: bool,
        std: float | None,
        device: torch.device | str | None,
    ) -> None:
        """Create weight and bias.

        Raises:
            TypeError: if seed, name or std has another type.
            ValueError: if seed or std is out of range.
        """
        self._fan_in = math.prod(shape[1:])
        std = math.sqrt(2 / max(self._fan_in, 1)) if std is None else std
        random.normal(seed, name, 0, std)
        self._seeded = SeededWeight(seed, name, shape, float(std))
        self.regenerate = regenerate
        # Follows the module's device and dtype where no weight is kept and there is no bias.
        self.register_buffer("_like", torch.empty(0, device=device), persistent=False)
        self.register_buffer("_kept", None, persistent=False)
        empty_bias = torch.empty(shape[0], device=device) if bias else None
        self.bias = None if empty_bias is None else nn.Parameter(empty_bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight from its seed, and the bias as torch.nn: U(-b, b), b = fan_in^-1/2."""
        if not self.regenerate:
            self._kept = self._seeded.draw(self._like.device, self._like.dtype)
        if self.bias is not None:
            bound = self._fan_in**-0.5 if self._fan_in > 0 else 0.0
            nn.init.uniform_(self.bias, -bound, bound)

    @property
    def seed(self) -> int:
        """The seed of the weight's stream."""
        return self._seeded.seed

    @property
    def name(self) -> str:
        """The name of the weight's stream."""
        return self._seeded.name

    @property
    def std(self) -> float:
        """The weight's standard deviation."""
        return self._seeded.std

    @property
    def weight(self) -> Tensor:
        """The dense weight; not trainable; drawn anew at each access with ``regenerate=True``."""
        return self._source(self._like.device, self._like.dtype)

    @property
    def _source(self) -> Source:
        kept = self._kept
        return self._seeded.draw if kept is None else kept.to

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; ``weight`` is refused.

        Raises:
            AttributeError: if ``name`` is ``weight``.
        """
        if name == self.dense_name:
            raise AttributeError(
                f"{type(self).__name__}.weight follows from its seed and cannot be set: use "
                "sparsefl.densify for a plain torch.nn layer"
            )
        super().__setattr__(name, value)

    def dense_state_shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return shape and dtype of the dense layer's state_dict, by name within the layer."""
        shapes = {self.dense_name: (self._seeded.shape, "float32")}
        if self.bias is not None:
            shapes["bias"] = (tuple(self.bias.shape), "float32")
        return shapes

    def _take_bias(self, dense: nn.Linear | nn.Conv2d) -> None:
        """Take bias, device, dtype and training mode of a dense layer, copied."""
        self.to(dense.weight.device, dense.weight.dtype)
        if dense.bias is not None:
            self.bias = nn.Parameter(dense.bias.detach().clone(), dense.bias.requires_grad)
        self.train(dense.training)

    def _give_to(self, dense: nn.Linear | nn.Conv2d) -> None:
        """Give weight, bias and training mode to a dense layer, copied; the weight stays frozen."""
        dense.weight = nn.Parameter(self.weight.detach().clone(), requires_grad=False)
        if self.bias is not None:
            dense.bias = nn.Parameter(self.bias.detach().clone(), self.bias.requires_grad)
        dense.train(self.training)

    def _cast(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return input and bias in the dtype that autocast asks for, where it is on."""
        device = x.device.type
        if not torch.is_autocast_enabled(device):
            return x, self.bias
        dtype = torch.get_autocast_dtype(device)
        return x.to(dtype), None if self.bias is None else self.bias.to(dtype)

    def _seed_repr(self) -> str:
        kept = ", regenerate=True" if self.regenerate else ""
        return f"seed={self.seed}, name={self.name!r}, std={self.std:.4g}{kept}"

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)  # type: ignore[no-untyped-call]
        metadata = getattr(destination, "_metadata", {}).get(prefix[:-1])
        if metadata is not None:
            metadata["frozen"] = [self.seed, self.name, self.std]

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        mine = [self.seed, self.name, self.std]
        theirs = local_metadata.get("frozen", mine)
        if theirs != mine:
            error_msgs.append(
                f"{prefix}weight: the checkpoint's frozen weight is (seed, name, std) = {theirs}, "
                f"this layer's {mine}"
            )
        entries = dict(state_dict)
        dense = entries.pop(prefix + self.dense_name, None)
        if dense is not None and not self._is_weight(dense):
            error_msgs.append(
                f"{prefix}weight: the checkpoint's dense weight is not what seed {self.seed} gives"
            )
        super()._load_from_state_dict(  # type: ignore[no-untyped-call]
            entries, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _is_weight(self, dense: object) -> bool:
        return isinstance(dense, Tensor) and torch.equal(
            dense.cpu(), self._seeded.draw(torch.device("cpu"), dense.dtype)
        )
