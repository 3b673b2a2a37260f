"""The network that FedPM trains: frozen random weights under sampled masks, in plain torch."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from sparsefl.fl.methods._votes import sample_bits
from sparsefl.random import normal, uniform_bits

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class _Sampled(torch.autograd.Function):
    """``m ~ Bernoulli(theta)``; the gradient of m passes to theta as it is."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor) -> Tensor:
        return torch.bernoulli(theta)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


class MaskedNetwork(nn.Module):
    """A model whose masked parameters hold scores s, of probabilities ``theta = sigmoid(s)``.

    ``w * m`` stands in the place of each, with frozen w. In training m is drawn from
    Bernoulli(theta) in each forward pass, by torch's generator, and
    ``ds = dL/d(w * m) * w * theta (1 - theta)``. In evaluation m is one draw that the scores
    decide, or theta. All other parameters are frozen.
    """

    def __init__(self, model: nn.Module, constants: Mapping[str, Tensor], evaluated: str) -> None:
        """Take a model over.

        Args:
            model: Its masked parameters become scores, the others are frozen.
            constants: The frozen weights w by the name of their parameter.
            evaluated: "sampled" or "mean": the mask of evaluation.
        """
        super().__init__()
        self.inner = model
        self.evaluated = evaluated
        self._names = tuple(constants)
        # functional_call puts back the wrong tensor where it ties the names of a shared layer.
        self._sites = _sites(model, self._names)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for number, (name, value) in enumerate(constants.items()):
            model.get_parameter(name).requires_grad_(True)
            self.register_buffer(f"weight{number}", value, persistent=False)

    def scores(self) -> dict[str, nn.Parameter]:
        """Return the scores by the name of their parameter."""
        return {name: self.inner.get_parameter(name) for name in self._names}

    def travelling(self) -> dict[str, Tensor]:
        """Return the buffers that belong to the model's state."""
        fixed = dict(self.inner.named_parameters(remove_duplicate=False))
        return {n: v for n, v in self.inner.state_dict().items() if n not in fixed}

    def weights(self) -> dict[str, Tensor]:
        """Return ``w * m`` by the name of its parameter; in training each call draws another m."""
        return {
            name: self.get_buffer(f"weight{number}") * self._mask(scores)
            for number, (name, scores) in enumerate(self.scores().items())
        }

    def _mask(self, scores: Tensor) -> Tensor:
        if self.training:
            drawn: Tensor = _Sampled.apply(scores.sigmoid())  # type: ignore[no-untyped-call]
            return drawn
        if self.evaluated == "mean":
            return scores.sigmoid()
        # Rounds count from 1: no client sends this draw.
        bits = sample_bits(scores.detach().float().cpu().numpy(), round=0)
        return torch.from_numpy(bits).to(scores)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Compute the model with :meth:`weights`."""
        weights = self.weights()
        placed = {site: weights[name] for site, name in self._sites.items()}
        result: Tensor = functional_call(self.inner, placed, inputs, tie_weights=False)
        return result


def _sites(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Map each place of a module that holds one of the parameters to its name: once a module."""
    known = {id(model.get_parameter(name)): name for name in names}
    return {
        f"{path}.{local}" if path else local: known[id(parameter)]
        for path, module in model.named_modules()
        for local, parameter in module._parameters.items()
        if id(parameter) in known
    }


def draw_constants(model: nn.Module, seed: int, gain: float) -> dict[str, Tensor]:
    """Draw the frozen weights, ``+-gain / sqrt(fan_in)``, one stream of ``seed`` a parameter.

    Of weights and biases of linear and convolution layers; a tied one is drawn once.

    Raises:
        ValueError: if the model has no such layer.
    """
    constants: dict[str, Tensor] = {}
    seen: set[int] = set()
    for path, layer in model.named_modules():
        if not isinstance(layer, _LAYERS):
            continue
        size = gain / math.sqrt(layer.weight[0].numel())
        for name, parameter in layer.named_parameters(f"{path}" if path else "", recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            words = uniform_bits(seed, name, parameter.numel())
            signs = np.where(words >> 31, 1.0, -1.0).reshape(tuple(parameter.shape))
            constants[name] = torch.from_numpy(size * signs).to(parameter.dtype)
    if not constants:
        raise ValueError("fedpm needs a linear or convolution layer to mask, the model has none")
    return constants


def draw_scores(network: MaskedNetwork, seed: int, std: float) -> dict[str, Tensor]:
    """Draw the first scores from N(0, std^2), streams apart from the weights'."""
    return {
        name: torch.from_numpy(normal(seed, f"scores of {name}", tuple(held.shape), std)).to(
            held.dtype
        )
        for name, held in network.scores().items()
    }
