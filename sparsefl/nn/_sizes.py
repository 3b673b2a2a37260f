"""The sizes of a linear layer and of a 2-d convolution, named and printed as torch.nn does."""

from typing import Any, TypeAlias

from torch import nn

from sparsefl.nn._stand_in import StandIn

Pair: TypeAlias = tuple[int, int]
Size: TypeAlias = int | Pair
Padding: TypeAlias = int | Pair | str


def _pair(size: Size, argument: str, least: int) -> Pair:
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


class LinearSizes(StandIn):
    """What stands for a ``torch.nn.Linear``, weight ``[out_features, in_features]``."""

    dense_type = nn.Linear

    in_features: int
    out_features: int

    def _set_sizes(self, in_features: int, out_features: int) -> tuple[int, int]:
        """Set the sizes; return the shape of the weight."""
        self.in_features = in_features
        self.out_features = out_features
        return (out_features, in_features)

    @classmethod
    def _sizes_of(cls, dense: nn.Linear) -> dict[str, Any]:
        return {"in_features": dense.in_features, "out_features": dense.out_features}

    def _empty_dense(self) -> nn.Linear:
        has_bias = self.bias is not None
        return nn.Linear(self.in_features, self.out_features, has_bias, device="meta")


class Conv2dSizes(StandIn):
    """What stands for a ``torch.nn.Conv2d``, weight ``[out, in / groups, kh, kw]``."""

    dense_type = nn.Conv2d

    in_channels: int
    out_channels: int
    kernel_size: Pair
    stride: Pair
    padding: Pair | str
    dilation: Pair
    groups: int
    padding_mode: str
    # What torch.nn.Conv2d's own repr asks for.
    output_padding = (0, 0)

    def _set_sizes(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        padding: Padding,
        dilation: Size,
        groups: int,
        padding_mode: str = "zeros",
    ) -> tuple[int, int, int, int]:
        """Check and set the sizes; return the shape of the weight.

        Raises:
            TypeError: if a size is no int.
            ValueError: if a size is out of range or ``padding_mode`` is not zeros.
        """
        if padding_mode != "zeros":
            raise ValueError(
                f"padding_mode must be 'zeros', got {padding_mode!r}: leave the layer dense, or "
                "pad its input with torch.nn.functional.pad"
            )
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
        if not isinstance(padding, str):
            self.padding = _pair(padding, "padding", 0)
        elif padding not in ("same", "valid"):
            raise ValueError(f"padding must be ints, 'same' or 'valid', got {padding!r}")
        elif padding == "same" and self.stride != (1, 1):
            raise ValueError(f"padding='same' needs stride 1, got {self.stride}")
        else:
            self.padding = padding
        return (out_channels, in_channels // groups, *self.kernel_size)

    @classmethod
    def _sizes_of(cls, dense: nn.Conv2d) -> dict[str, Any]:
        names = "in_channels out_channels kernel_size stride padding dilation groups padding_mode"
        return {name: getattr(dense, name) for name in names.split()}

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
