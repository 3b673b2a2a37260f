"""A weight held as the numbers on its support, in the order that the kernels like best."""

import copy
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparsefl.nn._carry import Plan
from sparsefl.nn._state import order_checksum
from sparsefl.support import Support

# What layers may hold; the short ones are summed in float32.
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class StoredLatent(nn.Module):
    """A module with one flat Parameter ``[nnz]``, the *latent*, stored in ``plan.order``.

    The plan is no tensor of the module: it follows ``.to(device)``, copies share it, and pickles
    leave it out.
    """

    latent_name: ClassVar[str]

    _plan: Plan
    _support: Support

    def _make_plan(self, support: Support) -> Plan:
        """Build the kernels' plan of a support."""
        raise NotImplementedError

    def _effective(self) -> Tensor:
        """Return the effective kept weights, ``[nnz]`` in stored order, differentiable."""
        raise NotImplementedError

    @property
    def _latent(self) -> nn.Parameter:
        latent = self._parameters[self.latent_name]
        assert latent is not None
        return latent

    @property
    def support(self) -> Support:
        """The kept positions of the weight; ``set_support`` changes them."""
        return self._support

    @property
    def plan(self) -> Plan:
        """What the kernels know of the support; ``plan.order`` is the order of the latent."""
        return self._plan

    def _dense_weight(self) -> Tensor:
        """Return the dense weight, zero off the support, differentiable."""
        kept = self._effective()
        dense = kept.new_zeros(self._support.numel)
        return dense.scatter(0, self._positions(), kept).view(self._support.shape)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Register a parameter; what torch.nn.utils.prune would add is refused.

        Raises:
            ValueError: if ``name`` says that the weight or the latent is to be pruned.
        """
        if name in ("weight_orig", f"{self.latent_name}_orig"):
            raise ValueError(
                f"{type(self).__name__} is pruned by its support: call layer.set_support(mask, "
                "optimizer) instead of torch.nn.utils.prune, or sparsefl.densify first"
            )
        super().register_parameter(name, param)

    def row_major(self, stored: Tensor) -> Tensor:
        """Return ``stored`` (``[nnz]``, the order of the latent) in row-major order.

        Raises:
            TypeError: if ``stored`` is not a tensor.
            ValueError: if it is not ``[nnz]``.
        """
        self._check_flat(stored, "stored")
        order = self._plan.order.to(stored.device)
        return stored.new_empty(self._support.nnz).scatter(0, order, stored)

    def from_row_major(self, flat: Tensor) -> Tensor:
        """Return ``flat`` (``[nnz]``, row-major) in the order of the latent.

        Raises:
            TypeError: if ``flat`` is not a tensor.
            ValueError: if it is not ``[nnz]``.
        """
        self._check_flat(flat, "flat")
        return flat.index_select(0, self._plan.order.to(flat.device))

    def _check_flat(self, values: object, argument: str) -> None:
        if not isinstance(values, Tensor):
            raise TypeError(f"{argument} must be a tensor, got {type(values).__name__}")
        if values.shape != (self._support.nnz,):
            raise ValueError(
                f"{argument} must have shape ({self._support.nnz},), got {tuple(values.shape)}"
            )

    def _positions(self) -> Tensor:
        """Return the flat row-major position in the weight of each stored number, ``[nnz]``."""
        order = self._plan.order
        # The copy is writable, which torch.from_numpy asks for.
        return torch.from_numpy(self._support.indices.copy()).to(order.device)[order]

    def _gather(self, weight: Tensor) -> Tensor:
        """Return the kept entries of a dense weight in stored order, ``[nnz]``, copied."""
        positions = self._positions().to(weight.device)
        return weight.detach().reshape(-1).index_select(0, positions)

    def _move_plan(self) -> None:
        """Bring the plan to the device of the latent; a meta latent leaves it where it is."""
        device = self._latent.device
        if device.type != "meta" and self._plan.order.device != device:
            self._plan = self._plan.to(device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "StoredLatent":
        dtype = fn(self._latent.detach().new_empty(0)).dtype
        if dtype not in DTYPES:
            raise TypeError(
                f"{type(self).__name__} computes in float32, float64, bfloat16 or float16, not in "
                f"{dtype}: use sparsefl.densify first"
            )
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._move_plan()
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "StoredLatent":
        """Copy the module; support and plan never change, so the copy shares them."""
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        memo[id(self._plan)] = self._plan
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: a checksum of the plan's order in place of the plan."""
        return {**self.__dict__, "_plan": order_checksum(self._plan.order)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled module and build its plan anew.

        Raises:
            ValueError: if the kernels order the latent in another way than where it was pickled.
        """
        state = dict(state)
        checksum = state.pop("_plan")
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._plan = self._make_plan(self._support)
        if order_checksum(self._plan.order) != checksum:
            raise ValueError(
                f"this {type(self).__name__} was pickled by a sparsefl that stores "
                f"{self.latent_name} in another order: move it as a state_dict, which is row-major"
            )
        self._move_plan()
