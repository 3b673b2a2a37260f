"""What both frozen layers share: the weight from its seed, functions that keep no input."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsefl import random
from sparsefl.nn._sizes import Pair
from sparsefl.nn._stand_in import StandIn
from sparsefl.ops._device_normal import normal as device_normal

# Stride, padding, dilation, groups.
Geometry: TypeAlias = tuple[Pair, Pair, Pair, int]
FrozenLayerT = TypeVar("FrozenLayerT", bound="FrozenLayer")


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
        """Return the weight: drawn in float32 on the device, the same bits on any; converted."""
        if device.type == "meta":
            return torch.empty(self.shape, device=device, dtype=dtype)
        drawn = (self.seed, self.name, self.shape, self.std)
        if device.type != "cpu":
            return device_normal(*drawn, device).to(dtype)
        return torch.from_numpy(random.normal(*drawn)).to(dtype)


def _weight_for(x: Tensor, kept: Tensor | None, seeded: SeededWeight | None) -> Tensor:
    """Return the weight in device and dtype of ``x``: the one that is kept, else a new draw."""
    if kept is not None:
        return kept.to(x.dtype)
    assert seeded is not None
    return seeded.draw(x.device, x.dtype)


class _RegeneratedLinear(torch.autograd.Function):
    """``x @ weight.T + bias`` that keeps nothing: the weight is drawn again for the gradient."""

    @staticmethod
    def forward(x: Tensor, bias: Tensor | None, seeded: SeededWeight) -> Tensor:
        return functional.linear(x, _weight_for(x, None, seeded), bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, _, ctx.seeded = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs_x, needs_bias, _ = ctx.needs_input_grad
        grad_x = grad @ _weight_for(grad, None, ctx.seeded) if needs_x else None
        grad_bias = grad.reshape(-1, grad.shape[-1]).sum(0) if needs_bias else None
        return grad_x, grad_bias, None


class _FrozenConvolution(torch.autograd.Function):
    """A convolution that does not keep its input: only a weight gradient would need it."""

    @staticmethod
    def forward(
        x: Tensor,
        bias: Tensor | None,
        kept: Tensor | None,
        seeded: SeededWeight | None,
        geometry: Geometry,
    ) -> Tensor:
        return functional.conv2d(x, _weight_for(x, kept, seeded), bias, *geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, _, kept, ctx.seeded, ctx.geometry = inputs
        ctx.save_for_backward(kept)
        ctx.input_shape = x.shape
        channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        ctx.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs_x, needs_bias, *_ = ctx.needs_input_grad
        grad_x = None
        if needs_x:
            (kept,) = ctx.saved_tensors
            weight = _weight_for(grad, kept, ctx.seeded)
            # Asked for its shape alone: the input is read for a weight gradient only. It lies as
            # the input did, or torch would copy it first (a fifth of a 1x1 convolution's time), and
            # its pages are never touched.
            x = torch.empty(
                ctx.input_shape,
                dtype=grad.dtype,
                device=grad.device,
                memory_format=ctx.memory_format,
            )
            sizes = (*ctx.geometry[:3], False, (0, 0), ctx.geometry[3])
            grad_x = torch.ops.aten.convolution_backward.default(
                grad, x, weight, None, *sizes, (True, False, False)
            )[0]
        grad_bias = grad.sum((0, 2, 3)) if needs_bias else None
        return grad_x, grad_bias, None, None, None


def frozen_convolution(x: Tensor, bias: Tensor | None, kept: Tensor, geometry: Geometry) -> Tensor:
    """Return the convolution of ``x``, ``[N, C, H, W]``, which the backward pass does without.

    Args:
        x: Input.
        bias: ``[out_channels]`` or None.
        kept: The weight.
        geometry: Stride, padding, dilation, groups.
    """
    return _FrozenConvolution.apply(x, bias, kept, None, geometry)  # type: ignore[no-untyped-call]


# torch.compile breaks the graph at these two; with fullgraph=True it gives the reason.
_NOT_TRACED = (
    "a frozen layer with regenerate=True draws its weight anew, which cannot be traced: use "
    "regenerate=False, or compile without fullgraph"
)


@torch.compiler.disable(reason=_NOT_TRACED)  # type: ignore[untyped-decorator]
def regenerated_convolution(
    x: Tensor, bias: Tensor | None, seeded: SeededWeight, geometry: Geometry
) -> Tensor:
    """Return the same with the weight drawn at each use."""
    return _FrozenConvolution.apply(x, bias, None, seeded, geometry)  # type: ignore[no-untyped-call]


@torch.compiler.disable(reason=_NOT_TRACED)  # type: ignore[untyped-decorator]
def regenerated_linear(x: Tensor, bias: Tensor | None, seeded: SeededWeight) -> Tensor:
    """Return ``x @ weight.T + bias``, ``[..., out]``, with the weight drawn at each use."""
    # Of a matrix: torch's own gives a view of other inputs, which a custom function must not.
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    out: Tensor = _RegeneratedLinear.apply(rows, bias, seeded)  # type: ignore[no-untyped-call]
    return out.reshape(*x.shape[:-1], seeded.shape[0])


class FrozenLayer(StandIn):
    """What both frozen layers share: the weight from its seed, a dense trainable bias.

    ``state_dict`` holds the bias alone; its metadata name seed, stream and std, and a state_dict of
    another frozen weight is refused. A dense ``weight`` is accepted if it is this one, bit for bit.
    """

    regenerate: bool
    _kept: Tensor | None
    _like: Tensor
    _seeded: SeededWeight
    _fan_in: int

    @classmethod
    def replacing(
        cls: type[FrozenLayerT], dense: nn.Linear | nn.Conv2d, **options: Any
    ) -> FrozenLayerT:
        """Return a layer of the sizes, bias and device of ``dense``, but with a seed's weight.

        Args:
            dense: The layer of torch.nn that this one stands for; it is left as it is.
            options: ``seed``, ``name``, ``regenerate``, ``std`` of the constructor.

        Raises:
            TypeError: if ``dense`` is another layer.
            ValueError: if it pads with other than zeros.
        """
        cls._check_dense(dense)
        layer = cls(**cls._sizes_of(dense), bias=dense.bias is not None, **options)
        layer.to(dense.weight.device, dense.weight.dtype)
        layer._adopt_bias(dense)
        return layer

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
        self.register_parameter("bias", None if empty_bias is None else nn.Parameter(empty_bias))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight from its seed, and the bias as torch.nn: U(-b, b), b = fan_in^-1/2."""
        if not self.regenerate:
            self._kept = self._seeded.draw(self._like.device, self._like.dtype)
        if self.bias is not None:
            bound = self._fan_in**-0.5 if self._fan_in > 0 else 0.0
            nn.init.uniform_(self.bias, -bound, bound)

    def _apply(
        self: FrozenLayerT, fn: Callable[[Tensor], Tensor], recurse: bool = True
    ) -> FrozenLayerT:
        before = self._like.dtype
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        kept = self._kept
        if kept is not None and kept.dtype != before and not kept.is_meta:
            # A shorter format and back would lose the bits that the seed gives.
            self._kept = self._seeded.draw(kept.device, kept.dtype)
        return self

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

    def _dense_weight(self) -> Tensor:
        return _weight_for(self._like, self._kept, self._seeded)

    def _weight_is_trained(self) -> bool:
        return False

    def _weight_advice(self) -> str:
        return (
            "follows from its seed and cannot be set or written into: use sparsefl.densify for a "
            "plain torch.nn layer"
        )

    def _dense_form(self) -> tuple[tuple[int, ...], torch.dtype]:
        return self._seeded.shape, self._like.dtype

    def _cast(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return input and bias in the dtype that autocast asks for, where it is on."""
        device = x.device.type
        if x.is_meta or not torch.is_autocast_enabled(device):
            return x, self.bias
        dtype = torch.get_autocast_dtype(device)
        return x.to(dtype), None if self.bias is None else self.bias.to(dtype)

    def _details(self) -> str:
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
