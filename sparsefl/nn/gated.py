"""``GatedConvBN2d``: convolution, batch norm and per-sample channel gates that save their work.

Source: adaptive dynamic pruning, arXiv 2106.06921, and its authors' code of 2021, in which the
gates multiply the result of a dense convolution. Departures: what a gate closes is not computed
(``stats="active"``: nor counted in the batch statistics).
"""

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from sparsefl import ops, reference
from sparsefl.nn._stand_in import refuse_transforms
from sparsefl.nn._tracing import call_whole, refuse_script

Stats = Literal["active", "all"]

__all__ = ["GatedConvBN2d", "PlainGatedConvBN2d"]


class PlainGatedConvBN2d(nn.Module):
    """``relu(g * bn(conv(x)))`` of :class:`GatedConvBN2d` by its formula in plain torch.

    All channels are computed and then multiplied by their gates, which the layers before do not
    hand on. Arguments, attributes and state_dict are those of :class:`GatedConvBN2d`.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        bn: nn.BatchNorm2d,
        density: float = 0.7,
        stats: Stats = "active",
        *,
        relu: bool = True,
        gate_sigmoid: bool = False,
    ) -> None:
        """Create the layer around ``conv`` and ``bn``, with fresh gates."""
        super().__init__()
        _check_layers(conv, bn)
        if not isinstance(density, int | float):
            raise TypeError(f"density: expected a number, got {type(density).__name__}")
        if not 0 < density <= 1:
            raise ValueError(f"density: expected a number over 0 and at most 1, got {density}")
        if stats not in get_args(Stats):
            raise ValueError(f'stats: expected "active" or "all", got {stats!r}')
        self.conv, self.bn = conv, bn
        self.density, self.stats = float(density), stats
        self.relu, self.gate_sigmoid = relu, gate_sigmoid
        weight = conv.weight
        self.gate = nn.Linear(
            conv.in_channels, conv.out_channels, device=weight.device, dtype=weight.dtype
        )
        nn.init.kaiming_normal_(self.gate.weight, nonlinearity="relu")
        nn.init.ones_(self.gate.bias)

    @property
    def kept_channels(self) -> int:
        """Output channels that a sample keeps at most: ``round(out_channels * density)``, or 1."""
        return max(1, round(self.conv.out_channels * self.density))

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated ``[N, out_channels, P, Q]`` of ``x`` ``[N, in_channels, H, W]``."""
        g = reference.gates(
            x, self.gate.weight, self.gate.bias, self.kept_channels, self.gate_sigmoid
        )
        z, bn, everything = self.conv(x), self.bn, self.stats == "all"
        running = self._running()
        if running is None and bn.running_mean is not None and bn.running_var is not None:
            with torch.no_grad():
                mean, variance, count = reference.gated_moments(z, g, everything)
                unbiased, momentum = variance * count / (count - 1), self._momentum()
                bn.running_mean.copy_(_moved(bn.running_mean, mean, momentum, count > 0))
                bn.running_var.copy_(_moved(bn.running_var, unbiased, momentum, count > 1))
        return reference.gated_norm(
            z, g, bn.weight, bn.bias, running, everything, bn.eps, self.relu
        )

    def _running(self) -> tuple[Tensor, Tensor] | None:
        """Return the running statistics where they normalise, as in torch's batch norm."""
        mean, variance = self.bn.running_mean, self.bn.running_var
        if self.bn.training or mean is None or variance is None:
            return None
        return mean, variance

    def _momentum(self) -> float:
        """Count a training step; return the share of its batch in the running statistics."""
        momentum = self.bn.momentum
        if self.bn.num_batches_tracked is not None:
            self.bn.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1.0 / float(self.bn.num_batches_tracked)
        assert momentum is not None
        return momentum

    def extra_repr(self) -> str:
        """Describe the gates."""
        return (
            f"density={self.density}, stats={self.stats!r}, relu={self.relu}, "
            f"gate_sigmoid={self.gate_sigmoid}"
        )


class GatedConvBN2d(PlainGatedConvBN2d):
    """Compute ``relu(g * bn(conv(x)))`` where every sample keeps its largest gates ``g`` alone.

    ``g = relu(gate.weight @ p + gate.bias)`` with ``p`` the mean of every channel of ``x``; of a
    sample's gates the ``round(out_channels * density)`` largest are kept, the others are zero.
    Output channels of a sample with a closed gate are skipped, forward and backward, and so are
    input channels of a sample that are zero, such as those that the layer before closed.

    A sample's outputs and all parameters' gradients equal those of the plain formula. The gradient
    of ``x`` is zero where the layer before closed its gates if it is known (``previous``, or where
    ``x`` is that layer's very output): nothing asks for it there.

    Args:
        conv: The convolution, one group, zero padding; adopted, not copied.
        bn: Its batch norm; adopted, not copied.
        density: Share of the output channels that a sample keeps, over 0 and at most 1.
        stats: The batch statistics are of ``"active"``, the (sample, channel) pairs with an open
            gate, or of ``"all"`` as the authors have it, for which every output channel is computed
            in training. A channel that is open in no sample keeps its running statistics.
        relu: Whether the result passes a ReLU. False where a residual is added first.
        gate_sigmoid: Whether the gates see the sigmoid of the means (the authors' VGG, not their
            ResNet).
        previous: The layer whose output, but for pooling, this one's input is.

    Attributes:
        gate: ``Linear(in_channels, out_channels)``; weight by He et al. 2015, bias 1.
        open_gates: Which gates the last forward left open, ``[N, out_channels]`` bool.

    Raises:
        TypeError: if ``conv`` or ``bn`` is another layer, or an argument has another type.
        ValueError: if their channels differ, a setting of theirs is not supported, or an argument
            is out of range.
    """

    __prepare_scriptable__ = refuse_script

    def __init__(
        self,
        conv: nn.Conv2d,
        bn: nn.BatchNorm2d,
        density: float = 0.7,
        stats: Stats = "active",
        *,
        relu: bool = True,
        gate_sigmoid: bool = False,
        previous: "GatedConvBN2d | None" = None,
    ) -> None:
        """Create the layer around ``conv`` and ``bn``, with fresh gates."""
        if previous is not None and not isinstance(previous, GatedConvBN2d):
            raise TypeError(f"previous: expected a GatedConvBN2d, got {type(previous).__name__}")
        super().__init__(conv, bn, density, stats, relu=relu, gate_sigmoid=gate_sigmoid)
        self.open_gates: Tensor | None = None
        # In a tuple, so that torch.nn does not take it for a part of this layer.
        self._previous = () if previous is None else (previous,)

    def layout(self, height: int, width: int) -> ops.Layout:
        """Return what computes the convolution of images of that size.

        ``"sparse"``: the kernels that skip channels; ``"dense"``: torch's convolution of all
        channels, where that is faster. The results are the same.
        """
        return ops.gated_layout(self._geometry(), (height, width), self.conv.weight.device)

    def _options(self) -> ops.GatedOptions:
        return ops.GatedOptions(
            kept=self.kept_channels,
            all_samples=self.stats == "all",
            sigmoid=self.gate_sigmoid,
            relu=self.relu,
            eps=self.bn.eps,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated ``[N, out_channels, P, Q]`` of ``x`` ``[N, in_channels, H, W]``.

        Raises:
            TypeError: if ``x`` has another dtype than float32 or float64 (outside autocast).
            ValueError: if its shape does not fit, or its batch is too small for statistics.
        """
        if isinstance(x, Proxy):
            return call_whole(self, x)
        refuse_transforms(self)
        tensors = ops.GatedTensors(
            *(self.conv.weight.contiguous(), self.conv.bias),
            *(self.gate.weight, self.gate.bias, self.bn.weight, self.bn.bias),
        )
        running = self._running()
        handed = self._handed(x)
        y, opened, statistics = ops.gated_conv2d(
            x, tensors, self._geometry(), self._options(), running, handed
        )
        if statistics is not None and self.bn.training and self.bn.running_mean is not None:
            self._update_running(statistics, y.shape[2] * y.shape[3])
        self.open_gates = opened
        # The next layer sees them where it gets this very tensor.
        y._sparsefl_open_gates = (opened, y._version)  # type: ignore[attr-defined]
        return y

    def _geometry(self) -> ops.GatedGeometry:
        conv = self.conv
        kernel, stride, dilation = (
            (a[0], a[1]) for a in (conv.kernel_size, conv.stride, conv.dilation)
        )
        padding = conv.padding
        if padding == "valid":
            padding = (0, 0)
        elif padding == "same":
            padding = tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True))
        return ops.GatedGeometry(kernel, stride, (int(padding[0]), int(padding[1])), dilation)

    def _handed(self, x: Tensor) -> Tensor | None:
        """Return the gates that closed channels of ``x``, where they are known."""
        opened, version = getattr(x, "_sparsefl_open_gates", (None, None))
        if opened is not None and version == x._version:
            return opened  # type: ignore[no-any-return]
        for layer in self._previous:
            gates = layer.open_gates
            if gates is not None and gates.shape == x.shape[:2]:
                return gates
        return None

    @torch.no_grad()
    def _update_running(self, statistics: ops.Statistics, pixels: int) -> None:
        """Move the running statistics of the channels that were open in any sample."""
        mean, variance = self.bn.running_mean, self.bn.running_var
        assert mean is not None
        assert variance is not None
        ops.update_running((mean, variance), statistics, pixels, self._momentum())

    def __getstate__(self) -> dict[str, Any]:
        """Return what is copied and pickled: without the last forward's gates."""
        return {**self.__dict__, "open_gates": None}


def to_plain(layer: GatedConvBN2d) -> None:
    """Make a layer plain torch, in place: a :class:`PlainGatedConvBN2d` with the same outputs."""
    for name in ("open_gates", "_previous"):
        delattr(layer, name)
    layer.__class__ = PlainGatedConvBN2d  # type: ignore[assignment]


def _moved(old: Tensor, new: Tensor, share: float, known: Tensor) -> Tensor:
    """Return ``old`` moved towards ``new`` where it is known."""
    return torch.where(known, old.lerp(new, share), old)


def why_not_gated(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> str:
    """Return what keeps a convolution and its batch norm from having gates, or nothing."""
    try:
        _check_layers(conv, bn)
    except ValueError as error:
        return str(error)
    return ""


def _check_layers(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> None:
    if not isinstance(conv, nn.Conv2d):
        raise TypeError(f"conv: expected a torch.nn.Conv2d, got {type(conv).__name__}")
    if not isinstance(bn, nn.BatchNorm2d):
        raise TypeError(f"bn: expected a torch.nn.BatchNorm2d, got {type(bn).__name__}")
    if conv.groups != 1:
        raise ValueError(f"conv: expected groups=1, got {conv.groups}")
    if 0 in conv.weight.shape:
        raise ValueError(
            f"conv: expected channels, got {conv.in_channels} in and {conv.out_channels} out"
        )
    if conv.padding_mode != "zeros":
        raise ValueError(f'conv: expected padding_mode="zeros", got {conv.padding_mode!r}')
    if bn.num_features != conv.out_channels:
        raise ValueError(
            f"bn: expected {conv.out_channels} features, the convolution's output channels, "
            f"got {bn.num_features}"
        )
    spread = (d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
    if conv.padding == "same" and any(s % 2 for s in spread):
        raise ValueError(
            f'conv: padding="same" of a {conv.kernel_size} kernel is uneven: pad the input instead'
        )
    for name, layer in (("conv", conv), ("bn", bn)):
        if layer._forward_hooks or layer._forward_pre_hooks:
            raise ValueError(
                f"{name}: its hooks would never run (torch.nn.utils.prune sets one: call "
                "torch.nn.utils.prune.remove first)"
            )
