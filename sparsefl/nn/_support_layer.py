"""What every layer with a support shares: initialisation, state_dict, change of support."""

import logging
from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsefl.nn._carry import (
    Carry,
    Plan,
    RetiredParameter,
    carry_between,
    carry_state,
    optimizer_slots,
    retire,
    successor_of,
)
from sparsefl.nn._stand_in import StandIn, effective_weight
from sparsefl.nn._state import (
    BITMAP,
    SHAPE,
    has_support,
    holds_support,
    read_support,
    support_entries,
)
from sparsefl.nn._stored import DTYPES, StoredLatent
from sparsefl.support import Support

SupportLike: TypeAlias = Support | Tensor | NDArray[np.bool_]

SupportLayerT = TypeVar("SupportLayerT", bound="SupportLayer")

_logger = logging.getLogger(__name__)


def as_support(given: SupportLike, shape: tuple[int, ...], argument: str = "support") -> Support:
    """Return ``given`` as a :class:`Support` of the weight's shape.

    Args:
        given: A support, or a bool tensor or array of shape ``shape``.
        shape: The weight's shape.
        argument: Name of the argument in the error.

    Raises:
        TypeError: if ``given`` is neither a support nor of dtype bool.
        ValueError: if it covers another shape.
    """
    expected = f"{argument} must be a Support or a bool tensor of shape {shape}"
    if not isinstance(given, Support):
        if not isinstance(given, Tensor | np.ndarray):
            raise TypeError(f"{expected}, got {type(given).__name__}")
        if given.dtype not in (torch.bool, np.dtype(bool)):
            raise TypeError(f"{expected}, got dtype {given.dtype}")
    if tuple(given.shape) != shape:
        raise ValueError(f"{argument} covers shape {tuple(given.shape)}, the weight has {shape}")
    return given if isinstance(given, Support) else Support.from_mask(given)


def check_dtype(dtype: torch.dtype, argument: str = "dtype") -> None:
    """Refuse dtypes that the kernels do not compute in.

    Raises:
        TypeError: if ``dtype`` is none of float32, float64, bfloat16 and float16.
    """
    if dtype not in DTYPES:
        names = ", ".join(str(d) for d in DTYPES)
        raise TypeError(f"{argument} must be one of {names}, got {dtype}")


class SupportLayer(StoredLatent, StandIn):
    """A layer whose weight is zero off a :class:`Support`; it holds ``nnz`` numbers, not ``numel``.

    The trainable numbers are one flat Parameter ``[nnz]``, the *latent* (``values`` or ``scores``),
    in the order that the kernels like best (``plan.order``). What leaves the layer (``state_dict``,
    :meth:`row_major`) is row-major.

    ``state_dict`` holds the latent row-major, ``support`` (the bitmap of the support, uint8
    ``[ceil(numel / 8)]``, least significant bit first), ``support_shape`` (int64) and ``bias``. It
    copies the latent, so writing into it does not change the layer. ``load_state_dict`` takes this
    format for an equal support, or a dense layer's ``weight``, of which it keeps what is on the
    support. A checkpoint with another support is refused, ``strict`` or not: see
    :func:`sparsefl.nn.load_supports`.
    """

    def _allocate(
        self,
        support: Support,
        bias: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        """Create plan, latent and bias, and draw them."""
        dtype = torch.get_default_dtype() if dtype is None else dtype
        check_dtype(dtype)
        self._support = support
        self._plan = self._make_plan(support)
        latent = torch.empty(support.nnz, device=device, dtype=dtype)
        self.register_parameter(self.latent_name, nn.Parameter(latent))
        empty_bias = torch.empty(support.shape[0], device=device, dtype=dtype) if bias else None
        self.register_parameter("bias", None if empty_bias is None else nn.Parameter(empty_bias))
        self._move_plan()
        self.reset_parameters()

    @classmethod
    def from_dense(
        cls: type[SupportLayerT], dense: nn.Linear | nn.Conv2d, mask: SupportLike
    ) -> SupportLayerT:
        """Return a layer that starts with the weights of ``dense`` where ``mask`` is true.

        Args:
            dense: The layer of torch.nn that this one stands for; it is left as it is.
            mask: Which weights are kept: a bool tensor or a support of the weight's shape.

        Raises:
            TypeError: if ``dense`` is another layer, its weight of a dtype without kernels, or
                ``mask`` neither bool nor a support.
            ValueError: if ``mask`` covers another shape than the weight, or ``dense`` pads with
                other than zeros.
        """
        cls._check_dense(dense)
        check_dtype(dense.weight.dtype, "dense.weight")
        layer = cls(
            **cls._sizes_of(dense),
            support=as_support(mask, tuple(dense.weight.shape), "mask"),
            bias=dense.bias is not None,
            device="meta",
            dtype=dense.weight.dtype,
        )
        layer._adopt(dense)
        return layer

    def reset_parameters(self) -> None:
        """Draw latent and bias anew, as torch.nn's default does, with the fan-in that is kept.

        ``latent ~ U(-b, b)`` with ``b = 1 / sqrt(kept weights of the output unit)``, and
        ``bias ~ U(-b, b)`` with ``b = 1 / sqrt(fan_in)`` of the dense layer, as in torch.nn. At
        density 1 these are torch.nn's own distributions; below it, a unit's output keeps the
        variance that it has when dense. The draw is row-major: it does not depend on the kernels.

        Source: Evci et al. 2022, "Gradient Flow in Sparse Neural Networks and How Lottery Tickets
        Win" (fan-in of the kept weights).
        """
        latent = self._latent
        if latent.is_meta:
            return
        rows = self._support.indices // max(self._fan_in, 1)
        kept = np.bincount(rows, minlength=self._support.shape[0])[rows]
        bounds = torch.tensor(kept, device=latent.device, dtype=latent.dtype).rsqrt()
        with torch.no_grad():
            drawn = torch.empty_like(latent).uniform_(-1.0, 1.0) * bounds
            latent.copy_(self.from_row_major(drawn))
            if self.bias is not None:
                bound = self._fan_in**-0.5 if self._fan_in > 0 else 0.0
                self.bias.uniform_(-bound, bound)

    @property
    def _fan_in(self) -> int:
        return int(np.prod(self._support.shape[1:]))

    def _adopt(self, dense: nn.Linear | nn.Conv2d) -> None:
        """Take kept weights, bias, device, dtype and training mode of a dense layer, copied."""
        latent = self._gather(effective_weight(dense))
        trainable = dense.weight.requires_grad
        self._parameters[self.latent_name] = nn.Parameter(latent, requires_grad=trainable)
        self._adopt_bias(dense)
        self._move_plan()

    def _weight_is_trained(self) -> bool:
        return self._latent.requires_grad

    def _weight_advice(self) -> str:
        return (
            f"is computed from {self.latent_name} and cannot be set or written into: write "
            f"layer.{self.latent_name} (layer.from_row_major gives its order), change the kept "
            "positions with set_support, or use sparsefl.densify for a plain torch.nn layer"
        )

    def _dense_form(self) -> tuple[tuple[int, ...], torch.dtype]:
        return self._support.shape, self._latent.dtype

    def _details(self) -> str:
        return f"nnz={self._support.nnz}, density={self._support.density:.4g}"

    def set_support(
        self, support: SupportLike, optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        """Keep other positions: what stays keeps its number, new positions start at zero.

        The Parameter is replaced by one of the new length, its gradient included. In ``optimizer``
        it takes the old one's place, with every state tensor of shape ``[nnz]`` (momentum, Adam's
        moments) carried over in the same way. Any other optimizer that holds the old Parameter
        raises at its next ``zero_grad`` or ``step``, and so does a layer that is tied to it when it
        runs; its own ``set_support`` with the same support ties it again.

        Args:
            support: The new support, or a bool mask of the weight's shape.
            optimizer: The optimizer that trains this layer, if any.

        Raises:
            TypeError: if ``support`` is neither a support nor of dtype bool.
            ValueError: if it covers another shape, is not the one that a tied layer has been given,
                or ``optimizer`` does not hold the layer's latent (it was built for another model,
                before ``sparsify`` for example).
        """
        new_support = as_support(support, self._support.shape)
        old = self._latent
        if isinstance(old, RetiredParameter):
            self._follow(old, new_support)
            return
        slots = self._slots(optimizer)
        if new_support == self._support:
            return
        new_plan = self._make_plan(new_support).to(old.device)
        carry = carry_between(self._support, self._plan, new_support, new_plan)
        new = nn.Parameter(carry(old.detach()), requires_grad=old.requires_grad)
        if old.grad is not None:
            new.grad = carry(old.grad)
        self._take(new, new_support, new_plan, carry)
        for params, index in slots:
            params[index] = new
        if optimizer is not None:
            carry_state(optimizer, old, new, carry)
        retire(old, new, new_support, new_plan)

    def _slots(
        self, optimizer: torch.optim.Optimizer | None, whose: str = "this layer's "
    ) -> list[tuple[list[nn.Parameter], int]]:
        """Return where the optimizer holds the latent.

        Raises:
            ValueError: if there is one and it does not; the message calls the latent ``whose``.
        """
        if optimizer is None:
            return []
        slots = optimizer_slots(optimizer, self._latent)
        if not slots:
            raise ValueError(
                f"optimizer does not hold {whose}{self.latent_name}: was it built for the "
                "model before sparsify, or before an earlier set_support?"
            )
        return slots

    def _follow(self, old: RetiredParameter, support: Support) -> None:
        """Take the parameter that a tied layer's set_support has put in the place of this one's.

        Raises:
            ValueError: if that has another support, or another order.
        """
        new, new_plan = self._check_successor(old, support)
        carry = carry_between(self._support, self._plan, support, new_plan)
        self._take(new, support, new_plan, carry)

    def _check_successor(
        self, old: RetiredParameter, support: Support
    ) -> tuple[nn.Parameter, Plan]:
        """Return what has taken the place of ``old``, and this layer's plan to go with it.

        Raises:
            ValueError: if that has another support, or another order.
        """
        new, chosen, plan = successor_of(old)
        if support != chosen:
            raise ValueError(
                f"support must be that of the layer which this one's {self.latent_name} is tied "
                f"to (nnz {chosen.nnz}), got another one of nnz {support.nnz}"
            )
        new_plan = self._make_plan(support).to(new.device)
        if not torch.equal(new_plan.order, plan.order):
            raise ValueError(
                f"support makes this layer store its {self.latent_name} in another order than the "
                "layer that it is tied to: densify the model and untie them"
            )
        return new, new_plan

    def _take(self, latent: nn.Parameter, support: Support, plan: Plan, carry: Carry) -> None:
        self._support, self._plan = support, plan
        self._parameters[self.latent_name] = latent
        self._support_changed(carry)

    def _support_changed(self, carry: Carry) -> None:
        """Carry over what else has ``nnz`` elements."""

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)  # type: ignore[no-untyped-call]
        key = prefix + self.latent_name
        destination[key] = self.row_major(destination[key])
        entries = support_entries(self._support)
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
        try:
            translated, missing = self._translate(state_dict, prefix)
            self._check_bias(state_dict, prefix)
        except (TypeError, ValueError) as error:
            error_msgs.append(f"{prefix}{self.latent_name}: {error}")
            return
        if strict:
            missing_keys.extend(missing)
        super()._load_from_state_dict(  # type: ignore[no-untyped-call]
            translated,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )

    def _translate(
        self, state_dict: Mapping[str, Any], prefix: str
    ) -> tuple[dict[str, Any], list[str]]:
        """Bring a state_dict into this layer's order and names.

        Returns:
            The state_dict with the latent in stored order and without support or dense weight, and
            the keys that it lacks.

        Raises:
            TypeError: if an entry is no tensor.
            ValueError: if an entry has another shape, or the support is another one.
        """
        translated = dict(state_dict)
        latent_key, dense_key = prefix + self.latent_name, prefix + self.dense_name
        if latent_key in translated:
            missing = self._check_support(state_dict, prefix)
            translated.pop(prefix + BITMAP, None)
            translated.pop(prefix + SHAPE, None)
            translated[latent_key] = self.from_row_major(translated[latent_key])
            return translated, missing
        if dense_key in translated:
            translated[latent_key] = self._mask(translated.pop(dense_key), dense_key)
        return translated, []

    def _check_bias(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        """Refuse a bias of another shape, for which torch would load the rest of the layer."""
        bias = state_dict.get(f"{prefix}bias")
        if self.bias is not None and isinstance(bias, Tensor) and bias.shape != self.bias.shape:
            raise ValueError(
                f"{prefix}bias has shape {tuple(bias.shape)}, the layer's {tuple(self.bias.shape)}"
            )

    def _check_support(self, state_dict: Mapping[str, Any], prefix: str) -> list[str]:
        """Refuse another support than the layer's; return the keys that are missing."""
        if not has_support(state_dict, prefix):
            return [prefix + name for name in (BITMAP, SHAPE) if prefix + name not in state_dict]
        if not holds_support(state_dict, prefix, self._support):
            saved = read_support(state_dict, prefix)
            raise ValueError(
                f"the checkpoint's support (shape {tuple(saved.shape)}, nnz {saved.nnz}) is not "
                f"this layer's (shape {tuple(self._support.shape)}, nnz {self._support.nnz}): call "
                "set_support on the layer, or sparsefl.nn.load_supports(model, state_dict), first"
            )
        return []

    def _mask(self, weight: object, key: str) -> Tensor:
        """Return what a dense weight holds on the support, ``[nnz]`` in stored order."""
        if not isinstance(weight, Tensor):
            raise TypeError(f"{key} must be a tensor, got {type(weight).__name__}")
        if weight.shape != tuple(self._support.shape):
            raise ValueError(
                f"{key} has shape {tuple(weight.shape)}, the support {tuple(self._support.shape)}"
            )
        kept = self._gather(weight)
        dropped = int(weight.count_nonzero() - kept.count_nonzero())
        if dropped:
            _logger.info("%s: dropped %d nonzero weights off the support", key, dropped)
        return kept
