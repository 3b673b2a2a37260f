"""The two shapes of layer, linear and 2-d convolution, whatever their weights are made of."""

from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from sparsefl.nn._support_layer import SupportLayer, SupportLike, as_support, check_dtype
from sparsefl.ops import Conv2dPlan, LinearPlan
from sparsefl.support import Support

Size: TypeAlias = int | tuple[int, int]
Padding: TypeAlias = int | tuple[int, int] | str


def _pair(size: Size, argument: str, least: int) -> tuple[int, int]:
    """Return ``size`` as (height, width).

    Raises:
        TypeError: if it is neither an int nor two ints.
        ValueError: if one of them is less than ``least``.
    """
    pair = (size, size) if isinstance(size, int) else size
    ints = isinstance(pair, tuple | list) and all(type(item) is int for item in pair)
    if not ints or len(pair) != 2:
        raise TypeError(f"{argument} must be an int or a tuple of two ints, got {size!r}")
    if min(pair) < least:
        raise ValueError(f"{argument} must be at least {least}, got {size!r}")
    return (pair[0], pair[1])


def _check_padding_mode(padding_mode: str) -> None:
    if padding_mode != "zeros":
        raise ValueError(f"padding_mode must be 'zeros', got {padding_mode!r}: not supported")


def _check_dense(dense: object, kind: type[nn.Module], argument: str) -> None:
    if not isinstance(dense, kind):
        raise TypeError(
            f"{argument} must be a torch.nn.{kind.__name__}, got {type(dense).__name__}"
        )
    weight = dense.weight
    assert isinstance(weight, Tensor)
    if nn.parameter.is_lazy(weight):
        raise ValueError(f"{argument} is uninitialised: run it once first")
    check_dtype(weight.dtype, f"{argument}.weight")


class LinearLayer(SupportLayer):
    """``y = x @ weight.T + bias`` with a weight ``[out_features, in_features]`` on a support."""

    _plan: LinearPlan

    def __init__(
        self,
        in_features: int,
        out_features: int,
        support: SupportLike,
        bias: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self._allocate(as_support(support, (out_features, in_features)), bias, device, dtype)

    def _make_plan(self, support: Support) -> LinearPlan:
        return LinearPlan(support)

    @staticmethod
    def _dense_arguments(linear: nn.Linear, mask: SupportLike) -> dict[str, Any]:
        """Return the constructor's arguments for a layer like ``linear``, on the meta device.

        Raises:
            TypeError: if ``linear`` is no ``torch.nn.Linear``, its weight neither float32 nor
                float64, or ``mask`` neither bool nor a support.
            ValueError: if ``mask`` covers another shape than the weight.
        """
        _check_dense(linear, nn.Linear, "linear")
        return {
            "in_features": linear.in_features,
            "out_features": linear.out_features,
            "support": as_support(mask, tuple(linear.weight.shape), "mask"),
            "bias": linear.bias is not None,
            "device": "meta",
            "dtype": linear.weight.dtype,
        }

    def to_dense(self) -> nn.Linear:
        """Return a ``torch.nn.Linear`` with the same outputs; it shares nothing with this layer."""
        dense = nn.Linear(
            self.in_features,
            self.out_features,
            self.bias is not None,
            device="meta",
            dtype=self._latent.dtype,
        )
        self._yield_to(dense)
        return dense

    def extra_repr(self) -> str:
        """Describe the layer as torch.nn.Linear does, and its support."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, {self._support_repr()}"
        )


class Conv2dLayer(SupportLayer):
    """A 2-d convolution whose weight ``[out, in / groups, kh, kw]`` lives on a support."""

    _plan: Conv2dPlan
    padding: tuple[int, int] | str

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        support: SupportLike,
        stride: Size,
        padding: Padding,
        dilation: Size,
        groups: int,
        bias: bool,
        padding_mode: str,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        _check_padding_mode(padding_mode)
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups must divide in_channels={in_channels} and out_channels={out_channels}, "
                f"got {groups}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _pair(kernel_size, "kernel_size", 1)
        self.stride = _pair(stride, "stride", 1)
        self.dilation = _pair(dilation, "dilation", 1)
        self.groups = groups
        self.padding_mode = padding_mode
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"padding must be ints, 'same' or 'valid', got {padding!r}")
            if padding == "same" and self.stride != (1, 1):
                raise ValueError(f"padding='same' needs stride 1, got {self.stride}")
            self.padding = padding
        else:
            self.padding = _pair(padding, "padding", 0)
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self._allocate(as_support(support, shape), bias, device, dtype)

    def _make_plan(self, support: Support) -> Conv2dPlan:
        padding = (0, 0) if self.padding == "valid" else self.padding
        return Conv2dPlan(support, self.stride, padding, self.dilation, self.groups)

    @staticmethod
    def _dense_arguments(conv: nn.Conv2d, mask: SupportLike) -> dict[str, Any]:
        """Return the constructor's arguments for a layer like ``conv``, on the meta device.

        Raises:
            TypeError: if ``conv`` is no ``torch.nn.Conv2d``, its weight neither float32 nor
                float64, or ``mask`` neither bool nor a support.
            ValueError: if ``mask`` covers another shape than the weight, or ``conv`` pads with
                other than zeros.
        """
        _check_dense(conv, nn.Conv2d, "conv")
        _check_padding_mode(conv.padding_mode)
        return {
            "in_channels": conv.in_channels,
            "out_channels": conv.out_channels,
            "kernel_size": conv.kernel_size,
            "support": as_support(mask, tuple(conv.weight.shape), "mask"),
            "stride": conv.stride,
            "padding": conv.padding,
            "dilation": conv.dilation,
            "groups": conv.groups,
            "bias": conv.bias is not None,
            "device": "meta",
            "dtype": conv.weight.dtype,
        }

    def _convolve(self, x: Tensor) -> Tensor:
        """Return the convolution of a batch, ``[N, C, H, W]``."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of ``[N, C, H, W]`` or ``[C, H, W]``, with as many dimensions."""
        if isinstance(x, Tensor) and x.dim() == 3:
            return self._convolve(x.unsqueeze(0)).squeeze(0)
        return self._convolve(x)

    def to_dense(self) -> nn.Conv2d:
        """Return a ``torch.nn.Conv2d`` with the same outputs; it shares nothing with this layer."""
        dense = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.bias is not None,
            device="meta",
            dtype=self._latent.dtype,
        )
        self._yield_to(dense)
        return dense

    def extra_repr(self) -> str:
        """Describe the layer as torch.nn.Conv2d does, and its support."""
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}"
        )
        if self.padding != (0, 0):
            text += f", padding={self.padding!r}"
        if self.dilation != (1, 1):
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        return f"{text}, {self._support_repr()}"
