"""Sign layers for inference: packed supports and signs, at most two bits a weight.

No scores, no gradients. :func:`sparsefl.export_sign` makes them from a trained model.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Proxy

from sparsefl.nn._sizes import Conv2dSizes, LinearSizes, Padding, Size
from sparsefl.nn._stand_in import StandIn, refuse_transforms
from sparsefl.nn._state import BITMAP, SHAPE
from sparsefl.nn._tracing import call_whole
from sparsefl.nn.sign import SignConv2d, SignLinear
from sparsefl.ops import PackedSigns, pack_signs, packed_sign_conv2d, packed_sign_linear
from sparsefl.ops._dispatch import packed_layout
from sparsefl.ops.packed_sign import Activations, check_activations
from sparsefl.support import Support

SIGNS = "signs"
_MAGNITUDE = "magnitude"
_PackedLayerT = TypeVar("_PackedLayerT", bound="PackedSignLayer")


class PackedSignLayer(StandIn):
    """What both packed layers share: signs in the kernels' memory, a magnitude, a bias.

    ``state_dict`` holds ``support`` and ``support_shape`` as sign layers do, ``signs`` (a bit for
    each kept weight in row-major order, set where it is negative, least significant bit first,
    uint8 ``[ceil(nnz / 8)]``), ``magnitude`` and ``bias``: 1 + density bits a weight.
    ``load_state_dict`` takes any support of the weight's shape. Memory holds the signs once, in one
    of two layouts that :attr:`signs` names: 1.8 bits a weight, or 16 a kept one.
    """

    activations: Activations
    batch_size: int
    magnitude: float
    bias: nn.Parameter | None
    _begin: Tensor
    _data: Tensor
    _nnz: int
    _shape: tuple[int, ...]
    _groups: int

    @classmethod
    def from_sign(
        cls: type[_PackedLayerT],
        layer: SignLinear | SignConv2d,
        activations: Activations = "float32",
        batch_size: int = 1,
    ) -> _PackedLayerT:
        """Return a packed layer with the signs, magnitude and bias of ``layer``, copied.

        Args:
            layer: The sign layer, float32.
            activations: As in the constructor.
            batch_size: As in the constructor.

        Raises:
            TypeError: if ``layer`` is of another type, or not float32.
            ValueError: if its magnitudes differ between its weights, or an argument is out of
                range.
        """
        expected = SignLinear if issubclass(cls, LinearSizes) else SignConv2d
        if not isinstance(layer, expected):
            raise TypeError(f"layer must be a {expected.__name__}, got {type(layer).__name__}")
        if layer.scores.dtype != torch.float32:
            raise TypeError(f"layer must be float32, got {layer.scores.dtype}")
        packed = cls(
            **cls._sizes_of(layer),
            bias=layer.bias is not None,
            activations=activations,
            batch_size=batch_size,
        )
        negative = layer.signs().cpu().numpy() < 0
        support = torch.tensor(layer.support.packed)
        packed._take(support, torch.from_numpy(np.packbits(negative, bitorder="little")))
        packed.magnitude = _one_magnitude(layer.magnitude)
        if layer.bias is not None:
            packed.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
        return packed.to(layer.scores.device).train(layer.training)

    def _start(
        self, shape: tuple[int, ...], groups: int, bias: bool, activations: str, batch_size: int
    ) -> None:
        """Set the constructor's arguments; keep no weight.

        Raises:
            TypeError: if ``batch_size`` is no int.
            ValueError: if ``activations`` or ``batch_size`` is out of range.
        """
        self.activations = check_activations(activations)
        if not isinstance(batch_size, int) or isinstance(batch_size, bool):
            raise TypeError(f"batch_size must be an int, got {type(batch_size).__name__}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.batch_size, self.magnitude = batch_size, 0.0
        self._shape, self._groups = shape, groups
        self.register_buffer("_begin", None, persistent=False)
        self.register_buffer("_data", None, persistent=False)
        zeros = nn.Parameter(torch.zeros(shape[0]), requires_grad=False) if bias else None
        self.register_parameter("bias", zeros)
        bits = (math.prod(shape) + 7) // 8
        self._take(torch.zeros(bits, dtype=torch.uint8), torch.zeros(0, dtype=torch.uint8))

    def _take(self, support: Tensor, negative: Tensor) -> None:
        """Hold the signs of these bitmaps, in the layout for their density."""
        kept = Support.from_packed(self._shape, support.numpy())
        layout = packed_layout(kept, self.batch_size)
        signs = pack_signs(support, negative, self._shape, layout, self._groups)
        device = None if self._data is None else self._data.device
        self._begin, self._data = signs.begin.to(device), signs.data.to(device)
        self._nnz = signs.nnz

    @property
    def signs(self) -> PackedSigns:
        """The signs as the kernels read them; ``signs.nbytes`` is what they take in memory."""
        buffers = self._buffers
        begin, data = buffers["_begin"], buffers["_data"]
        assert begin is not None
        assert data is not None
        return PackedSigns(self._shape, self._nnz, self._groups, begin, data)

    @property
    def support(self) -> Support:
        """The kept positions of the weight, unpacked at each access."""
        return Support.from_packed(self._shape, self.signs.unpack()[0].cpu().numpy())

    def _dense_weight(self) -> Tensor:
        support, negative = (bits.cpu().numpy() for bits in self.signs.unpack())
        kept = np.unpackbits(support, count=math.prod(self._shape), bitorder="little")
        dense = torch.from_numpy(kept).float()
        below = np.unpackbits(negative, count=self._nnz, bitorder="little")
        dense[dense != 0] = torch.from_numpy(1.0 - 2.0 * below).float()
        return (dense * self.magnitude).view(self._shape).to(self._data.device)

    def _weight_is_trained(self) -> bool:
        return False

    def _weight_advice(self) -> str:
        return (
            "is packed and cannot be set or written into: export the trained model again, or use "
            "sparsefl.densify for a plain torch.nn layer"
        )

    def _dense_form(self) -> tuple[tuple[int, ...], torch.dtype]:
        return self._shape, torch.float32

    def _apply(
        self: _PackedLayerT, fn: Callable[[Tensor], Tensor], recurse: bool = True
    ) -> _PackedLayerT:
        dtype = fn(torch.empty(0, device=self._data.device)).dtype
        if dtype != torch.float32:
            raise TypeError(
                f"{type(self).__name__} computes in float32, not in {dtype}: run it under "
                "torch.autocast, or use sparsefl.densify first"
            )
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _details(self) -> str:
        numel = math.prod(self._shape)
        bits = 8 * self.signs.nbytes / numel if numel else 0.0
        density = self._nnz / numel if numel else 0.0
        return (
            f"nnz={self._nnz}, density={density:.4g}, magnitude={self.magnitude:.4g}, "
            f"activations={self.activations}, {self.signs.layout} of {bits:.2f} bits a weight"
        )

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)  # type: ignore[no-untyped-call]
        support, negative = self.signs.unpack()
        entries = {
            BITMAP: support,
            SHAPE: torch.tensor(self._shape),
            SIGNS: negative,
            _MAGNITUDE: torch.tensor(self.magnitude, dtype=torch.float64),
        }
        destination.update((prefix + name, value) for name, value in entries.items())

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
        entries = dict(state_dict)
        names = (BITMAP, SHAPE, SIGNS, _MAGNITUDE)
        own = {name: entries.pop(prefix + name, None) for name in names}
        absent = [prefix + name for name, value in own.items() if value is None]
        if not absent:
            try:
                self._load_signs(own)
            except (TypeError, ValueError) as error:
                error_msgs.append(f"{prefix}{SIGNS}: {error}")
                return
        elif strict:
            missing_keys.extend(absent)
        super()._load_from_state_dict(  # type: ignore[no-untyped-call]
            entries, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _load_signs(self, entries: Mapping[str, Any]) -> None:
        """Take signs and magnitude of a state_dict.

        Raises:
            TypeError: if an entry is no such tensor.
            ValueError: if the entries do not fit together or this layer.
        """
        shape, magnitude = entries[SHAPE], entries[_MAGNITUDE]
        if not isinstance(shape, Tensor) or tuple(shape.tolist()) != self._shape:
            got = shape.tolist() if isinstance(shape, Tensor) else type(shape).__name__
            raise ValueError(f"{SHAPE} must be {list(self._shape)}, got {got}")
        if not isinstance(magnitude, Tensor) or magnitude.dim() != 0:
            raise ValueError(
                f"{_MAGNITUDE} must be one number: a packed layer has one for all its weights"
            )
        value = float(magnitude.item())
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{_MAGNITUDE} must be finite and not negative, got {value}")
        self._take(_cpu(entries[BITMAP], BITMAP), _cpu(entries[SIGNS], SIGNS))
        self.magnitude = value


def _cpu(bits: object, name: str) -> Tensor:
    if not isinstance(bits, Tensor) or bits.dtype != torch.uint8:
        raise TypeError(f"{name} must be a uint8 tensor, got {getattr(bits, 'dtype', type(bits))}")
    return bits.detach().cpu().contiguous()


def _one_magnitude(magnitude: float | Tensor) -> float:
    if not isinstance(magnitude, Tensor):
        return magnitude
    if magnitude.numel() == 0:
        return 0.0
    first = magnitude[0]
    if not bool((magnitude == first).all()):
        raise ValueError(
            "magnitude differs between the weights (magnitude='kaiming' or a tensor), which takes "
            "32 bits a weight beside its sign: train with magnitude='signed_const' or a number, or "
            "use sparsefl.densify"
        )
    return float(first)


class PackedSignLinear(LinearSizes, PackedSignLayer):
    """Compute ``y = x @ (magnitude * S).T + bias`` with packed signs ``S``, for inference.

    It starts without a kept weight: :meth:`from_sign` and ``load_state_dict`` give it some.

    Args:
        in_features: Size of an input row.
        out_features: Size of an output row.
        bias: Whether a bias is added; it is dense.
        activations: ``"float32"``, or ``"int8"``: twice as fast, every input vector rounded to 255
            levels; see :func:`sparsefl.ops.packed_sign_linear`.
        batch_size: The batch that the layout is chosen for; any other works too.

    Shapes:
        ``[..., in_features]`` gives ``[..., out_features]``, row-major.

    Raises:
        TypeError: if ``batch_size`` is no int.
        ValueError: if ``activations`` or ``batch_size`` is out of range.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        activations: Activations = "float32",
        batch_size: int = 1,
    ) -> None:
        """Create the layer without a kept weight."""
        super().__init__()
        shape = self._set_sizes(in_features, out_features)
        self._start(shape, 1, bias, activations, batch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x @ weight.T + bias``, ``[..., out_features]``, for ``[..., in_features]``.

        Raises:
            RuntimeError: if ``x`` needs a gradient.
        """
        if isinstance(x, Proxy):
            return call_whole(self, x)
        refuse_transforms(self)
        return packed_sign_linear(x, self.signs, self.magnitude, self.bias, self.activations)


class PackedSignConv2d(Conv2dSizes, PackedSignLayer):
    """Compute ``y = conv2d(x, magnitude * S) + bias`` with packed signs ``S``, for inference.

    The convolution to :class:`PackedSignLinear`.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Height and width of the kernel, or one int for both.
        stride: Step of the window.
        padding: Zeros on each side, ``"same"`` or ``"valid"``.
        dilation: Distance between the taps.
        groups: Blocks of channels that are convolved apart.
        bias: Whether a bias is added; it is dense.
        padding_mode: Only ``"zeros"``.
        activations: As in :class:`PackedSignLinear`; with ``"int8"`` an image has one scale.
        batch_size: As in :class:`PackedSignLinear`.

    Shapes:
        ``[N, in_channels, H, W]`` gives ``[N, out_channels, OH, OW]``, row-major; unbatched alike.

    Raises:
        TypeError: if a size or ``batch_size`` is no int.
        ValueError: if a size, ``activations`` or ``batch_size`` is out of range, or
            ``padding_mode`` is not zeros.
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
        padding_mode: str = "zeros",
        *,
        activations: Activations = "float32",
        batch_size: int = 1,
    ) -> None:
        """Create the layer without a kept weight."""
        super().__init__()
        steps = (stride, padding, dilation, groups)
        shape = self._set_sizes(in_channels, out_channels, kernel_size, *steps, padding_mode)
        self._start(shape, groups, bias, activations, batch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of ``[N, C, H, W]`` or ``[C, H, W]``, with as many dimensions.

        Raises:
            RuntimeError: if ``x`` needs a gradient.
        """
        if isinstance(x, Proxy):
            return call_whole(self, x)
        refuse_transforms(self)
        batch = x.unsqueeze(0) if isinstance(x, Tensor) and x.dim() == 3 else x
        padding = (0, 0) if self.padding == "valid" else self.padding
        y = packed_sign_conv2d(
            batch,
            self.signs,
            self.magnitude,
            self.bias,
            self.stride,
            padding,
            self.dilation,
            self.activations,
        )
        return y if batch is x else y.squeeze(0)
