"""Layers whose weight is a seed: never trained, never sent, the same bits everywhere.

Against ``requires_grad_(False)`` on a dense layer, what is saved is the weight on the wire and in
checkpoints, the input that a frozen ``torch.nn.Conv2d`` keeps for its backward pass, and, with
``regenerate=True``, the weight's memory between its uses.
"""

from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsefl.nn._frozen_layer import FrozenLayer, Pair, frozen_convolution, regenerated_linear

__all__ = ["FrozenConv2d", "FrozenLinear"]

Size: TypeAlias = int | tuple[int, int]


class FrozenLinear(FrozenLayer):
    """Compute ``y = x @ weight.T + bias`` with a weight that a seed stands for.

    The weight is ``random.normal(seed, name, (out_features, in_features), std)``: no Parameter, not
    in ``state_dict``, without a gradient. The bias is trained.

    Args:
        in_features: Size of an input row.
        out_features: Size of an output row.
        bias: Whether a bias is added.
        seed: Seed of the weight, ``0 <= seed < 2**64``.
        name: Name of the weight's stream; in a model, the parameter's name.
        regenerate: Draw the weight at each use, forward and backward, instead of keeping it.
        device: Where weight and bias live; the weight is drawn on the CPU.
        std: Standard deviation of the weight; by default ``sqrt(2 / in_features)`` (He et al. 2015,
            which keeps the variance through ReLU layers; torch.nn's own default is
            ``sqrt(1 / (3 in_features))``).

    Shapes:
        ``[..., in_features]`` gives ``[..., out_features]``.

    Raises:
        TypeError: if seed, name or std has another type.
        ValueError: if seed or std is out of range.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        seed: int = 0,
        name: str = "weight",
        regenerate: bool = False,
        device: torch.device | str | None = None,
        *,
        std: float | None = None,
    ) -> None:
        """Create the layer."""
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self._freeze((out_features, in_features), bias, seed, name, regenerate, std, device)

    @classmethod
    def replacing(cls, linear: nn.Linear, **options: Any) -> "FrozenLinear":
        """Return a layer of the size, bias and device of ``linear``, but with a seed's weight.

        Args:
            linear: The dense layer; it is left as it is.
            options: ``seed``, ``name``, ``regenerate``, ``std`` of :class:`FrozenLinear`.

        Raises:
            TypeError: if ``linear`` is no ``torch.nn.Linear``.
        """
        if not isinstance(linear, nn.Linear):
            raise TypeError(f"linear must be a torch.nn.Linear, got {type(linear).__name__}")
        has_bias = linear.bias is not None
        layer = cls(linear.in_features, linear.out_features, has_bias, **options)
        layer._take_bias(linear)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x @ weight.T + bias``, ``[..., out_features]``, for ``[..., in_features]``.

        Raises:
            ValueError: if the last dimension of ``x`` is not ``in_features``.
        """
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise ValueError(f"x must have shape [..., {self.in_features}], got {list(x.shape)}")
        x, bias = self._cast(x)
        if self._kept is not None:
            return functional.linear(x, self._kept.to(x.dtype), bias)
        return regenerated_linear(x, bias, self._source)

    def to_dense(self) -> nn.Linear:
        """Return a ``torch.nn.Linear`` with the same outputs, its weight not trainable."""
        dense = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        self._give_to(dense)
        return dense

    def extra_repr(self) -> str:
        """Describe the layer as torch.nn.Linear does, and its seed."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, {self._seed_repr()}"
        )


class FrozenConv2d(FrozenLayer):
    """Compute ``y = conv2d(x, weight) + bias`` with a weight that a seed stands for.

    The weight is ``random.normal(seed, name, (out_channels, in_channels / groups, kh, kw), std)``:
    no Parameter, not in ``state_dict``, without a gradient. The bias is trained. The input is not
    kept for the backward pass.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Height and width of the kernel, or one int for both.
        stride: Step of the window.
        padding: Zeros on each side, ``"same"`` or ``"valid"``.
        dilation: Distance between the taps.
        groups: Blocks of channels that are convolved apart.
        bias: Whether a bias is added.
        seed: Seed of the weight, ``0 <= seed < 2**64``.
        name: Name of the weight's stream; in a model, the parameter's name.
        regenerate: Draw the weight at each use, forward and backward, instead of keeping it.
        device: Where weight and bias live; the weight is drawn on the CPU.
        std: Standard deviation of the weight; by default ``sqrt(2 / fan_in)`` with ``fan_in =
            in_channels / groups * kh * kw``, as in :class:`FrozenLinear`.

    Shapes:
        ``[N, in_channels, H, W]`` gives ``[N, out_channels, OH, OW]``; unbatched alike.

    Raises:
        TypeError: if seed, name or std has another type.
        ValueError: if seed, std, groups or padding is out of range.
    """

    _SIZES: ClassVar[tuple[str, ...]] = (
        *("in_channels", "out_channels", "kernel_size", "stride"),
        *("padding", "dilation", "groups"),
    )

    in_channels: int
    out_channels: int
    kernel_size: Pair
    stride: Pair
    padding: Pair | str
    dilation: Pair
    groups: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        seed: int = 0,
        name: str = "weight",
        regenerate: bool = False,
        device: torch.device | str | None = None,
        *,
        std: float | None = None,
    ) -> None:
        """Create the layer; torch.nn.Conv2d reads and checks the sizes."""
        super().__init__()
        dense = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            device="meta",
        )
        for attribute in self._SIZES:
            setattr(self, attribute, getattr(dense, attribute))
        self._freeze(tuple(dense.weight.shape), bias, seed, name, regenerate, std, device)

    @classmethod
    def replacing(cls, conv: nn.Conv2d, **options: Any) -> "FrozenConv2d":
        """Return a layer of the sizes, bias and device of ``conv``, but with a seed's weight.

        Args:
            conv: The dense layer; it is left as it is.
            options: ``seed``, ``name``, ``regenerate``, ``std`` of :class:`FrozenConv2d`.

        Raises:
            TypeError: if ``conv`` is no ``torch.nn.Conv2d``.
            ValueError: if its padding mode is not zeros.
        """
        if not isinstance(conv, nn.Conv2d):
            raise TypeError(f"conv must be a torch.nn.Conv2d, got {type(conv).__name__}")
        if conv.padding_mode != "zeros":
            raise ValueError(f"padding_mode must be 'zeros', got {conv.padding_mode!r}")
        sizes = {name: getattr(conv, name) for name in cls._SIZES}
        layer = cls(**sizes, bias=conv.bias is not None, **options)
        layer._take_bias(conv)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of ``x``, ``[N, in_channels, H, W]`` or unbatched.

        Raises:
            ValueError: if ``x`` has another number of dimensions or channels.
        """
        if x.dim() not in (3, 4) or x.shape[-3] != self.in_channels:
            raise ValueError(
                f"x must have shape [N, {self.in_channels}, H, W] or [{self.in_channels}, H, W], "
                f"got {list(x.shape)}"
            )
        if x.dim() == 3:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        x, bias = self._cast(x)
        x, padding = self._pad(x)
        return frozen_convolution(
            x, bias, self._source, self.stride, padding, self.dilation, self.groups
        )

    def _pad(self, x: Tensor) -> tuple[Tensor, Pair]:
        """Return the input and the zeros that are still missing on each side of it."""
        if not isinstance(self.padding, str):
            return x, self.padding
        if self.padding == "valid":
            return x, (0, 0)
        height, width = (d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True))
        if height % 2 == 0 and width % 2 == 0:
            return x, (height // 2, width // 2)
        left, top = width // 2, height // 2
        return functional.pad(x, (left, width - left, top, height - top)), (0, 0)

    def _empty_dense(self) -> nn.Conv2d:
        return nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.bias is not None,
            device="meta",
        )

    def to_dense(self) -> nn.Conv2d:
        """Return a ``torch.nn.Conv2d`` with the same outputs, its weight not trainable."""
        dense = self._empty_dense()
        self._give_to(dense)
        return dense

    def extra_repr(self) -> str:
        """Describe the layer as torch.nn.Conv2d does, and its seed."""
        sizes = self._empty_dense().extra_repr()  # type: ignore[no-untyped-call]
        return f"{sizes}, {self._seed_repr()}"
