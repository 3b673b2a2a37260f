"""Layers that train only the signs of their kept weights; the magnitudes never change.

Source: HideNseek, arXiv 2206.04385 (sign supermask on a subnetwork pruned at initialisation).
"""

import math
from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from sparsefl.nn._carry import Carry
from sparsefl.nn._geometry import Conv2dLayer, Device, LinearLayer
from sparsefl.nn._sizes import Padding, Size
from sparsefl.nn._stand_in import refuse_transforms
from sparsefl.nn._support_layer import SupportLayer, SupportLike
from sparsefl.nn._tracing import call_whole
from sparsefl.ops import SignCodes, sign_conv2d, sign_linear
from sparsefl.random import normal

Magnitude: TypeAlias = str | float | Tensor
_SignLayerT = TypeVar("_SignLayerT", bound="_SignLayer")

_STATE_KEY = "magnitude"
_RULES = ("signed_const", "kaiming")


class _SignLayer(SupportLayer):
    """Scores, magnitudes and signs of a sign layer; see :class:`SignLinear`."""

    latent_name = "scores"
    scores: nn.Parameter
    _magnitudes: Tensor | None
    _constant: float
    _rule: str
    _seed: int
    _name: str

    @classmethod
    def from_dense(
        cls: type[_SignLayerT],
        dense: nn.Linear | nn.Conv2d,
        mask: SupportLike,
        magnitude: Magnitude = "signed_const",
        *,
        seed: int = 0,
        name: str = "weight",
    ) -> _SignLayerT:
        """Return a layer whose scores start at the weights of ``dense`` where ``mask`` is true.

        Args:
            dense: The layer of torch.nn that this one stands for; it is left as it is.
            mask: Which weights are kept: a bool tensor or a support of the weight's shape.
            magnitude: As in the constructor.
            seed: As in the constructor.
            name: As in the constructor.

        Raises:
            TypeError: if ``dense`` is another layer, its weight of none of the dtypes above,
                ``mask`` neither bool nor a support, or ``magnitude`` of another type.
            ValueError: if ``mask`` or ``magnitude`` covers another shape than the weight,
                ``magnitude`` is another string, negative or not finite, or ``dense`` pads with
                other than zeros.
        """
        layer = super().from_dense(dense, mask)
        layer._start_magnitude(magnitude, seed, name)
        return layer

    def _start_magnitude(self, magnitude: Magnitude, seed: int, name: str) -> None:
        """Set the magnitudes from the constructor's arguments.

        Raises:
            TypeError: if ``magnitude`` is no string, number or tensor.
            ValueError: if it is another string, negative or not finite, or a tensor of another
                shape than the weight.
        """
        self._rule = magnitude if isinstance(magnitude, str) else "given"
        self._seed, self._name = seed, name
        self._constant = 0.0
        self.register_buffer("_magnitudes", None, persistent=False)
        if isinstance(magnitude, str):
            self._set_magnitude(self._magnitude_by_rule(magnitude, seed, name))
        elif isinstance(magnitude, Tensor):
            if magnitude.shape != tuple(self.support.shape):
                raise ValueError(
                    f"magnitude has shape {tuple(magnitude.shape)}, the weight has "
                    f"{tuple(self.support.shape)}"
                )
            self._set_magnitude(self._gather(magnitude))
        else:
            self._set_magnitude(magnitude)

    def _magnitude_by_rule(self, rule: str, seed: int, name: str) -> float | Tensor:
        """Return the magnitudes of ``"signed_const"`` or ``"kaiming"`` for the support."""
        if rule not in _RULES:
            raise ValueError(
                "magnitude must be 'signed_const', 'kaiming', a number or a tensor of the weight's "
                f"shape, got {rule!r}"
            )
        if self.support.nnz == 0:
            return 0.0
        scale = math.sqrt(2.0 / self._fan_in) / math.sqrt(self.support.density)
        if rule == "signed_const":
            return scale
        drawn = normal(seed, name, self.support.shape, scale)
        return self._gather(torch.from_numpy(drawn)).abs()

    def _check_magnitude(self, magnitude: object) -> None:
        """Refuse what is neither a constant nor ``[nnz]`` magnitudes, finite and not negative.

        Raises:
            TypeError: if it is another type.
            ValueError: if it has another shape, or is out of range.
        """
        if isinstance(magnitude, Tensor):
            self._check_flat(magnitude, "magnitude")
            valid = bool((torch.isfinite(magnitude) & (magnitude >= 0)).all())
        elif isinstance(magnitude, int | float) and not isinstance(magnitude, bool):
            valid = math.isfinite(magnitude) and magnitude >= 0
        else:
            raise TypeError(
                f"magnitude must be a string, a number or a tensor, got {type(magnitude).__name__}"
            )
        if not valid:
            raise ValueError(
                "magnitude must be finite and not negative: the sign of a weight is the sign of "
                "its score"
            )

    def _set_magnitude(self, magnitude: float | Tensor) -> None:
        """Hold a constant, or ``[nnz]`` magnitudes in stored order."""
        self._check_magnitude(magnitude)
        if isinstance(magnitude, Tensor):
            # A latent on the meta device takes its place from what is loaded into it.
            device = magnitude.device if self._latent.is_meta else self._latent.device
            self._magnitudes = magnitude.detach().to(device, self._latent.dtype)
        else:
            self._magnitudes, self._constant = None, float(magnitude)

    @property
    def magnitude(self) -> float | Tensor:
        """Absolute values of the kept weights: one for all, or ``[nnz]`` in stored order."""
        # Not through nn.Module.__getattr__, which a layer of 1024 features sees on the clock.
        held = self._buffers["_magnitudes"]
        return self._constant if held is None else held

    @torch.no_grad()
    def signs(self) -> Tensor:
        """Return the signs of the kept weights, +1 or -1, ``[nnz]`` int8 in row-major order."""
        return self.row_major(torch.where(self.scores >= 0, 1, -1).to(torch.int8))

    def _effective(self) -> Tensor:
        signs = torch.where(self.scores >= 0, 1.0, -1.0).to(self.scores.dtype)
        # Straight-through: the difference is zero, its gradient is that of the scores.
        return self.magnitude * (signs + (self.scores - self.scores.detach()))

    def _support_changed(self, carry: Carry) -> None:
        if self._rule != "given":
            self._set_magnitude(self._magnitude_by_rule(self._rule, self._seed, self._name))
        elif self._magnitudes is not None:
            self._magnitudes = carry(self._magnitudes)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        magnitude = self.magnitude
        destination[prefix + _STATE_KEY] = (
            self.row_major(magnitude)
            if isinstance(magnitude, Tensor)
            else torch.tensor(magnitude, dtype=torch.float64)
        )
        metadata = getattr(destination, "_metadata", {}).get(prefix[:-1])
        if metadata is not None:
            metadata[_STATE_KEY] = [self._rule, self._seed, self._name]

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
        faults = len(error_msgs) + len(missing_keys)
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )
        whole = len(error_msgs) + len(missing_keys) == faults
        if whole and prefix + _STATE_KEY in state_dict:
            magnitude = self._saved_magnitude(state_dict, prefix)
            self._set_magnitude(magnitude)
            self._take_origin(magnitude, local_metadata)

    def _translate(
        self, state_dict: Mapping[str, Any], prefix: str
    ) -> tuple[dict[str, Any], list[str]]:
        translated, missing = super()._translate(state_dict, prefix)
        key = prefix + _STATE_KEY
        if key in translated:
            del translated[key]
            self._check_magnitude(self._saved_magnitude(state_dict, prefix))
        elif prefix + self.latent_name in state_dict:
            missing.append(key)
        return translated, missing

    def _saved_magnitude(self, state_dict: Mapping[str, Any], prefix: str) -> float | Tensor:
        """Return the magnitude of a state_dict: a constant, or ``[nnz]`` in stored order."""
        saved = state_dict[prefix + _STATE_KEY]
        if not isinstance(saved, Tensor):
            raise TypeError(f"{prefix}{_STATE_KEY} must be a tensor, got {type(saved).__name__}")
        return self.from_row_major(saved) if saved.dim() else float(saved.item())

    def _take_origin(self, magnitude: float | Tensor, local_metadata: Mapping[str, Any]) -> None:
        """Keep the rule that made a loaded magnitude, the checkpoint's or this layer's; else none.

        A rule that gives other numbers than were loaded would replace them at the next
        ``set_support``.
        """
        origin = local_metadata.get(_STATE_KEY, (self._rule, self._seed, self._name))
        self._rule = "given"
        if origin[0] in _RULES and _same(self._magnitude_by_rule(*origin), magnitude):
            self._rule, self._seed, self._name = origin

    def _details(self) -> str:
        held = "[nnz]" if self._magnitudes is not None else f"{self._constant:.4g}"
        rule = "" if self._rule == "given" else f"{self._rule} "
        return f"{super()._details()}, magnitude={rule}{held}"


def _same(drawn: float | Tensor, loaded: float | Tensor) -> bool:
    """Tell whether two magnitudes are equal in the precision of the loaded one."""
    if isinstance(drawn, Tensor) and isinstance(loaded, Tensor):
        return torch.equal(drawn.to(loaded.device, loaded.dtype), loaded)
    return not isinstance(drawn, Tensor) and not isinstance(loaded, Tensor) and drawn == loaded


class SignLinear(_SignLayer, LinearLayer):
    """Compute ``y = x @ (magnitude * sgn(scores)).T + bias`` on the kept weights alone.

    Only the signs train: ``sgn(s)`` is +1 for ``s >= 0`` and -1 below, and the gradient of a score
    is straight-through, ``dL/dscores = dL/dweight * magnitude``. The magnitudes are fixed and not
    negative; the sign of an initial weight is folded into its score.

    - ``"signed_const"``: one magnitude, ``sqrt(2 / fan_in) / sqrt(density)``, with the fan-in of
      the dense layer and the layer's density.
    - ``"kaiming"``: ``|n|`` with ``n`` normal of that same standard deviation, from the stream
      ``name`` of ``seed``, bit-identical on every machine. Plain Kaiming has no ``sqrt(density)``;
      it is here so that both rules give outputs the same variance.
    - a number, or a tensor of the weight's shape: these magnitudes.

    After ``set_support`` the first two follow their rule for the new support; given magnitudes
    are carried over, with 0 at new positions. A loaded magnitude follows a rule where the rule (the
    checkpoint's, else the layer's own) gives the same numbers; else it counts as given.

    Args:
        in_features: Size of an input row.
        out_features: Size of an output row.
        support: Which weights are kept: a :class:`sparsefl.Support` or a bool tensor,
            ``[out_features, in_features]``.
        bias: Whether a bias is added; it is dense and real.
        magnitude: The rule or the magnitudes, as above.
        seed: Seed of the ``"kaiming"`` magnitudes.
        name: Their stream; distinct layers of a model need distinct names.
        device: Where the parameters live.
        dtype: float32, bfloat16 or float16 (computed in float32), or float64 (slow: for
            gradient checks).

    Attributes:
        scores: Latent scores, ``[nnz]``, in stored order; see :meth:`row_major`.
        magnitude: A float, or ``[nnz]`` in stored order; not trained.
        bias: ``[out_features]`` or None.

    Shapes:
        ``[..., in_features]`` with any strides gives ``[..., out_features]``, from the sparse
        kernels with the batch innermost in memory.

    Raises:
        TypeError: if ``support``, ``magnitude`` or ``dtype`` is of another type.
        ValueError: if ``support`` or ``magnitude`` covers another shape, or ``magnitude`` is
            another string, negative or not finite.

    Source: HideNseek, arXiv 2206.04385; the scaling by density is ours.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        support: SupportLike,
        bias: bool = True,
        magnitude: Magnitude = "signed_const",
        *,
        seed: int = 0,
        name: str = "weight",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Create the layer with fresh scores; see :meth:`reset_parameters`."""
        super().__init__(in_features, out_features, support, bias, device=device, dtype=dtype)
        self._start_magnitude(magnitude, seed, name)
        self._codes = SignCodes()

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x @ weight.T + bias``, ``[..., out_features]``, for ``[..., in_features]``."""
        if isinstance(x, Proxy):
            return call_whole(self, x)
        refuse_transforms(self)
        return sign_linear(x, self.scores, self.magnitude, self.bias, self._plan, codes=self._codes)


class SignConv2d(_SignLayer, Conv2dLayer):
    """Compute ``y = conv2d(x, magnitude * sgn(scores)) + bias`` on the kept weights alone.

    The convolution to :class:`SignLinear`, which documents signs, magnitudes and gradients; sizes,
    padding, shapes and errors are those of :class:`SparseConv2d`.

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
        bias: Whether a bias is added; it is dense and real.
        padding_mode: Only ``"zeros"``.
        magnitude: ``"signed_const"``, ``"kaiming"``, a number or a tensor of the weight's shape.
        seed: Seed of the ``"kaiming"`` magnitudes.
        name: Their stream; distinct layers of a model need distinct names.
        device: Where the parameters live.
        dtype: float32, bfloat16 or float16 (computed in float32), or float64 (slow: for
            gradient checks).

    Attributes:
        scores: Latent scores, ``[nnz]``, in stored order; see :meth:`row_major`.
        magnitude: A float, or ``[nnz]`` in stored order; not trained.
        bias: ``[out_channels]`` or None.

    Raises:
        TypeError: if ``support``, ``magnitude``, ``dtype`` or a size is of another type.
        ValueError: if ``support`` or ``magnitude`` covers another shape, a size or ``magnitude`` is
            out of range, or ``padding_mode`` is not zeros.

    Source: HideNseek, arXiv 2206.04385; the scaling by density is ours.
    """

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
        magnitude: Magnitude = "signed_const",
        *,
        seed: int = 0,
        name: str = "weight",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Create the layer with fresh scores; see :meth:`reset_parameters`."""
        steps = (stride, padding, dilation, groups)
        options: dict[str, Any] = {"padding_mode": padding_mode, "device": device, "dtype": dtype}
        super().__init__(in_channels, out_channels, kernel_size, support, *steps, bias, **options)
        self._start_magnitude(magnitude, seed, name)

    def _convolve(self, x: Tensor) -> Tensor:
        return sign_conv2d(x, self.scores, self.magnitude, self.bias, self._plan)
