"""Layers whose weight is a seed: never trained, never sent, the same bits everywhere.

Against ``requires_grad_(False)`` on a dense layer, what is saved is the weight on the wire and in
checkpoints, the input that a frozen ``torch.nn.Conv2d`` keeps for its backward pass (what a ReLU in
front keeps of it goes by :func:`sparsefl.nn.use_bit_relu`), and, with ``regenerate=True``, the
weight's memory between its uses.
"""

import torch
from torch import Tensor
from torch.fx import Proxy
from torch.nn import functional

from sparsefl.nn._frozen_layer import (
    FrozenLayer,
    frozen_convolution,
    regenerated_convolution,
    regenerated_linear,
)
from sparsefl.nn._sizes import Conv2dSizes, LinearSizes, Padding, Pair, Size
from sparsefl.nn._stand_in import refuse_transforms
from sparsefl.nn._tracing import call_whole

__all__ = ["FrozenConv2d", "FrozenLinear"]


class FrozenLinear(LinearSizes, FrozenLayer):
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
        device: Where weight and bias live; the weight is drawn there, the same bits everywhere.
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
        shape = self._set_sizes(in_features, out_features)
        self._freeze(shape, bias, seed, name, regenerate, std, device)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x @ weight.T + bias``, ``[..., out_features]``, for ``[..., in_features]``.

        Raises:
            ValueError: if the last dimension of ``x`` is not ``in_features``.
        """
        if isinstance(x, Proxy):
            return call_whole(self, x)
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise ValueError(f"x must have shape [..., {self.in_features}], got {list(x.shape)}")
        if self._kept is not None:
            return functional.linear(x, self._kept, self.bias)
        refuse_transforms(self)
        x, bias = self._cast(x)
        return regenerated_linear(x, bias, self._seeded)


class FrozenConv2d(Conv2dSizes, FrozenLayer):
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
        device: Where weight and bias live; the weight is drawn there, the same bits everywhere.
        std: Standard deviation of the weight; by default ``sqrt(2 / fan_in)`` with ``fan_in =
            in_channels / groups * kh * kw``, as in :class:`FrozenLinear`.
        padding_mode: Only ``"zeros"``.

    Shapes:
        ``[N, in_channels, H, W]`` gives ``[N, out_channels, OH, OW]``; unbatched alike.

    Raises:
        TypeError: if a size, seed, name or std has another type.
        ValueError: if a size, seed or std is out of range, or ``padding_mode`` is not zeros.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        seed: int = 0,
        name: str = "weight",
        regenerate: bool = False,
        device: torch.device | str | None = None,
        *,
        std: float | None = None,
        padding_mode: str = "zeros",
    ) -> None:
        """Create the layer."""
        super().__init__()
        steps = (stride, padding, dilation, groups)
        shape = self._set_sizes(in_channels, out_channels, kernel_size, *steps, padding_mode)
        self._freeze(shape, bias, seed, name, regenerate, std, device)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of ``x``, ``[N, in_channels, H, W]`` or unbatched.

        Raises:
            ValueError: if ``x`` has another number of dimensions or channels.
        """
        if isinstance(x, Proxy):
            return call_whole(self, x)
        if x.dim() not in (3, 4) or x.shape[-3] != self.in_channels:
            raise ValueError(
                f"x must have shape [N, {self.in_channels}, H, W] or [{self.in_channels}, H, W], "
                f"got {list(x.shape)}"
            )
        if x.dim() == 3:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        refuse_transforms(self)
        x, bias = self._cast(x)
        x, padding = self._pad(x)
        geometry = (self.stride, padding, self.dilation, self.groups)
        if self._kept is not None:
            return frozen_convolution(x, bias, self._kept, geometry)
        return regenerated_convolution(x, bias, self._seeded, geometry)

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
