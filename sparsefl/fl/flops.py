"""Forward FLOPs of a dense model, layer by layer: the unit of every method's own accounting."""

from typing import Any

import torch
from torch import Tensor, nn

# A step is one forward pass and two passes of the same size backward: the gradients of the inputs
# and of the weights. Source: the accounting of FedTiny (arXiv 2212.01977), FedAvg = 3 F_d.
PASSES_PER_STEP = 3


def forward_flops(model: nn.Module, example_input: Tensor, batch_size: int) -> dict[str, int]:
    """Count ``2 * MACs`` of the forward pass of each linear and convolution layer.

    By the shapes that pass through it: ``outputs * weights per output``, biases, norms and
    activations left out, as the papers do. A layer that is called twice counts twice.

    Args:
        model: Plain torch model; run once in eval mode on a sample of zeros.
        example_input: ``[1, ...]``, only its shape and dtype are used.
        batch_size: Examples a step.

    Returns:
        ``{name of the weight: FLOPs of one forward pass of the batch}``.
    """
    counts: dict[str, int] = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            key = f"{name}.weight" if name else "weight"
            counts[key] = 0

            def count(layer: Any, _: Any, output: Tensor, key: str = key) -> None:
                units = output.numel() // output.shape[0]
                counts[key] += 2 * units * layer.weight[0].numel() * batch_size

            hooks.append(module.register_forward_hook(count))
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(torch.zeros_like(example_input[:1]))
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    return counts
