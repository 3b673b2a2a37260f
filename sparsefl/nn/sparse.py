"""Linear and convolution layers that store, compute and train only the kept weights."""

from torch import Tensor, nn
from torch.fx import Proxy

from sparsefl.nn._geometry import Conv2dLayer, LinearLayer
from sparsefl.nn._stand_in import refuse_transforms
from sparsefl.nn._tracing import call_whole
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
        dtype: float32, bfloat16 or float16 (computed in float32), or float64 (slow: for
            gradient checks).

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

    def _effective(self) -> Tensor:
        return self.values

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x @ weight.T + bias``, ``[..., out_features]``, for ``[..., in_features]``."""
        if isinstance(x, Proxy):
            return call_whole(self, x)
        refuse_transforms(self)
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
        dtype: float32, bfloat16 or float16 (computed in float32), or float64 (slow: for
            gradient checks).

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

    def _effective(self) -> Tensor:
        return self.values

    def _convolve(self, x: Tensor) -> Tensor:
        return sparse_conv2d(x, self.values, self.bias, self._plan)
