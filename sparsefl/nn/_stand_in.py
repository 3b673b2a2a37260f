"""What every layer that stands for one of torch.nn shares, whatever its weight is made of."""

from typing import Any, ClassVar

from torch import Tensor, nn


class StandIn(nn.Module):
    """A layer that stands for one of torch.nn: its weight is computed, its bias a Parameter."""

    # The torch.nn layer, and the parameter of it that is no Parameter here.
    dense_type: ClassVar[type[nn.Linear] | type[nn.Conv2d]]
    dense_name: ClassVar[str] = "weight"

    bias: nn.Parameter | None

    @property
    def weight(self) -> Tensor:
        """The dense weight."""
        raise NotImplementedError

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; ``weight`` is refused.

        Raises:
            AttributeError: if ``name`` is ``weight``.
        """
        if name == self.dense_name:
            raise AttributeError(f"{type(self).__name__}.weight {self._weight_advice()}")
        super().__setattr__(name, value)

    def _weight_advice(self) -> str:
        """Return why the weight cannot be set, and what to do instead."""
        raise NotImplementedError

    def _empty_dense(self) -> nn.Linear | nn.Conv2d:
        """Return the layer of torch.nn with these sizes, on the meta device."""
        raise NotImplementedError

    def to_dense(self) -> nn.Linear | nn.Conv2d:
        """Return the torch.nn layer with the same outputs; it shares nothing with this one."""
        dense = self._empty_dense()
        weight = self.weight.detach().clone()
        dense.weight = nn.Parameter(weight, requires_grad=self._weight_is_trained())
        if self.bias is not None:
            dense.bias = nn.Parameter(self.bias.detach().clone(), self.bias.requires_grad)
        return dense.train(self.training)

    def _weight_is_trained(self) -> bool:
        raise NotImplementedError

    def dense_state_shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return shape and dtype of the dense layer's state_dict, by name within the layer."""
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
        sizes = self._empty_dense().extra_repr()  # type: ignore[no-untyped-call]
        return f"{sizes}, {self._details()}"
