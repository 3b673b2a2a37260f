"""What every layer that stands for one of torch.nn shares, whatever its weight is made of."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad

from sparsefl.nn._read_only import read_only
from sparsefl.nn._tracing import refuse_script


def is_pruned(layer: nn.Module, name: str = "weight") -> bool:
    """Tell whether torch.nn.utils.prune masks a parameter of the layer."""
    return f"{name}_mask" in layer._buffers and f"{name}_orig" in layer._parameters


def effective_weight(layer: nn.Module, name: str = "weight") -> Tensor:
    """Return a layer's weight, detached; a pruned one as the next forward will have it."""
    if is_pruned(layer, name):
        # The attribute is of the last forward; the parameter may have been trained since.
        return layer.get_parameter(f"{name}_orig").detach() * layer.get_buffer(f"{name}_mask")
    weight = getattr(layer, name)
    assert isinstance(weight, Tensor)
    return weight.detach()


def in_transform() -> bool:
    """Tell whether torch.func or forward-mode differentiation runs."""
    if torch.compiler.is_compiling():
        return False
    return peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def refuse_transforms(layer: nn.Module) -> None:
    """Refuse torch.func and forward-mode differentiation, which the kernels know nothing of.

    Raises:
        NotImplementedError: within ``torch.func.vmap``, ``grad`` or ``jvp``, or a forward-mode
            level.
    """
    if in_transform():
        raise NotImplementedError(
            f"{type(layer).__name__} does not support torch.func (vmap, grad, jvp) or forward-mode "
            "differentiation: use backward(), or sparsefl.densify(model) for the same outputs in "
            "plain torch.nn"
        )


class StandIn(nn.Module):
    """A layer that stands for one of torch.nn: its weight is computed, its bias a Parameter."""

    # The torch.nn layer, and the parameter of it that is no Parameter here.
    dense_type: ClassVar[type[nn.Linear] | type[nn.Conv2d]]
    dense_name: ClassVar[str] = "weight"

    bias: nn.Parameter | None

    __prepare_scriptable__ = refuse_script

    @property
    def weight(self) -> Tensor:
        """The dense weight, to be read; writing into it raises, and so does setting it.

        With a support it is computed anew at each access, zero off the support, and differentiable:
        a penalty on it reaches the stored numbers (and costs a dense gradient meanwhile).
        """
        return read_only(self._dense_weight(), self._refusal())

    def _dense_weight(self) -> Tensor:
        """Return the dense weight."""
        raise NotImplementedError

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; ``weight`` is refused.

        Raises:
            AttributeError: if ``name`` is ``weight``.
        """
        if name == self.dense_name:
            raise AttributeError(self._refusal())
        super().__setattr__(name, value)

    def _refusal(self) -> str:
        return f"{type(self).__name__}.{self.dense_name} {self._weight_advice()}"

    def _weight_advice(self) -> str:
        """Return why the weight cannot be set, and what to do instead."""
        raise NotImplementedError

    def _empty_dense(self) -> nn.Linear | nn.Conv2d:
        """Return the layer of torch.nn with these sizes, on the meta device."""
        raise NotImplementedError

    def to_dense(self) -> nn.Linear | nn.Conv2d:
        """Return the torch.nn layer with the same outputs; it shares nothing with this one."""
        dense = self._empty_dense()
        weight = self._dense_weight().detach().clone()
        dense.weight = nn.Parameter(weight, requires_grad=self._weight_is_trained())
        if self.bias is not None:
            dense.bias = nn.Parameter(self.bias.detach().clone(), self.bias.requires_grad)
        return dense.train(self.training)

    def _weight_is_trained(self) -> bool:
        raise NotImplementedError

    def dense_state_shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return shape and dtype of the dense layer's state_dict, by name within the layer."""
        shape, dtype = self._dense_form()
        name = str(dtype).removeprefix("torch.")
        shapes = {self.dense_name: (shape, name)}
        if self.bias is not None:
            shapes["bias"] = (tuple(self.bias.shape), name)
        return shapes

    def _dense_form(self) -> tuple[tuple[int, ...], torch.dtype]:
        """Return shape and dtype of the dense weight."""
        raise NotImplementedError

    @classmethod
    def _check_dense(cls, dense: object) -> None:
        """Refuse what this layer cannot stand for.

        Raises:
            TypeError: if ``dense`` is no such torch.nn layer.
            ValueError: if it is uninitialised.
        """
        if not isinstance(dense, cls.dense_type):
            raise TypeError(
                f"dense must be a torch.nn.{cls.dense_type.__name__}, got {type(dense).__name__}"
            )
        if nn.parameter.is_lazy(dense.weight):
            raise ValueError("dense is uninitialised: run it once first")

    @classmethod
    def _sizes_of(cls, dense: Any) -> dict[str, Any]:
        """Return the constructor's arguments that give a layer the sizes of ``dense``."""
        raise NotImplementedError

    def _adopt_bias(self, dense: nn.Linear | nn.Conv2d) -> None:
        """Take bias and training mode of a dense layer, copied."""
        if dense.bias is not None:
            self.bias = nn.Parameter(dense.bias.detach().clone(), dense.bias.requires_grad)
        self.train(dense.training)

    def _details(self) -> str:
        """Return what a repr says beyond the sizes."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Describe the layer as torch.nn does, and what its weight is made of."""
        # Of this layer, which has the attributes: making a dense one would draw its weight.
        sizes = self.dense_type.extra_repr(self)  # type: ignore[arg-type]
        return f"{sizes}, {self._details()}"
