"""Linear and convolution layers that store, compute and train only the kept weights."""

import torch
from torch import Tensor, nn

from sparsefl.nn._geometry import Conv2dLayer, LinearLayer, Padding, Size
from sparsefl.nn._support_layer import SupportLike
from sparsefl.ops import sparse_conv2d, sparse_linear


class SparseLinear(LinearLayer):
    """Compute ``y = x @ (weight * support).T + bias`` on the kept weights alone.

    A drop-in for ``torch.nn.Linear``. Forward, input gradient and weight gradient take
    ``2 * nnz * batch`` FLOPs each, and ``values``, its gradient and its optimizer state ``nnz``
    numbers each.

    Args:
        in_features: Size of an input row.
        out_features: Size of an output row.
        support: Which weights are kept: a :class:`sparsefl.Support` or a bool tensor,
            ``[out_features, in_features]``.
        bias: Whether a bias is added; it is dense.
        device: Where the parameters live.
        dtype: float32, or float64 (slow: for gradient checks).

    Attributes:
        values: Kept weights, ``[nnz]``, in stored order; see :meth:`row_major`.
        bias: ``[out_features]`` or None.

    Shapes:
        ``[..., in_features]`` with any strides gives ``[..., out_features]``, from the sparse
        kernels with the batch innermost in memory.

    Raises:
        TypeError: if ``support`` is neither a support nor bool, or ``dtype`` is another one.
        ValueError: if ``support`` covers another shape.
    """

    latent_name = "values"
    values: nn.Parameter

    def __init__(
        self,
        in_features: int,
        out_features: int,
        support: SupportLike,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Create the layer with fresh parameters; see :meth:`reset_parameters`."""
        super().__init__(in_features, out_features, support, bias, device, dtype)
        self.reset_parameters()

    @classmethod
    def from_dense(cls, linear: nn.Linear, mask: SupportLike) -> "SparseLinear":
        """Return a layer that starts with the weights of ``linear`` where ``mask`` is true.

        Args:
            linear: The dense layer; it is left as it is.
            mask: Which weights are kept: a bool tensor or a support of the weight's shape.

        Raises:
            TypeError: if ``linear`` is no ``torch.nn.Linear``, its weight neither float32 nor
                float64, or ``mask`` neither bool nor a support.
            ValueError: if ``mask`` covers another shape than the weight.
        """
        layer = cls(**cls._dense_arguments(linear, mask))
        layer._adopt(linear)
        return layer

    def _effective(self) -> Tensor:
        return self.values

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x @ weight.T + bias``, ``[..., out_features]``, for ``[..., in_features]``."""
        return sparse_linear(x, self.values, self.bias, self._plan)


class SparseConv2d(Conv2dLayer):
    """Compute ``y = conv2d(x, weight * support) + bias`` on the kept weights alone.

    A drop-in for ``torch.nn.Conv2d`` with zero padding. Forward, input gradient and weight gradient
    take ``2 * nnz * batch * out_height * out_width`` FLOPs each.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Height and width of the kernel, or one int for both.
        support: Which weights are kept: a :class:`sparsefl.Support` or a bool tensor,
            ``[out_channels, in_channels / groups, kh, kw]``.
        stride: Step of the window.
        padding: Zeros on each side, ``"same"`` or ``"valid"``.
        dilation: Distance between the taps.
        groups: Blocks of channels that are convolved apart.
        bias: Whether a bias is added; it is dense.
        padding_mode: Only ``"zeros"``.
        device: Where the parameters live.
        dtype: float32, or float64 (slow: for gradient checks).

    Attributes:
        values: Kept weights, ``[nnz]``, in stored order; see :meth:`row_major`.
        bias: ``[out_channels]`` or None.

    Shapes:
        ``[N, in_channels, H, W]`` with any strides gives ``[N, out_channels, OH, OW]`` with the
        batch innermost in memory; an unbatched ``[in_channels, H, W]`` gives three dimensions.

    Raises:
        TypeError: if ``support`` is neither a support nor bool, a size no int, or ``dtype`` another
            one.
        ValueError: if ``support`` covers another shape, a size is out of range or ``padding_mode``
            is not zeros.
    """

    latent_name = "values"
    values: nn.Parameter

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        support: SupportLike,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Create the layer with fresh parameters; see :meth:`reset_parameters`."""
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            support,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        self.reset_parameters()

    @classmethod
    def from_dense(cls, conv: nn.Conv2d, mask: SupportLike) -> "SparseConv2d":
        """Return a layer that starts with the weights of ``conv`` where ``mask`` is true.

        Args:
            conv: The dense layer; it is left as it is.
            mask: Which weights are kept: a bool tensor or a support of the weight's shape.

        Raises:
            TypeError: if ``conv`` is no ``torch.nn.Conv2d``, its weight neither float32 nor
                float64, or ``mask`` neither bool nor a support.
            ValueError: if ``mask`` covers another shape than the weight, or ``conv`` pads with
                other than zeros.
        """
        layer = cls(**cls._dense_arguments(conv, mask))
        layer._adopt(conv)
        return layer

    def _effective(self) -> Tensor:
        return self.values

    def _convolve(self, x: Tensor) -> Tensor:
        return sparse_conv2d(x, self.values, self.bias, self._plan)
