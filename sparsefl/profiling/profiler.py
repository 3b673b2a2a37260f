"""The entry: one density, and whether it pays."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import Tensor, nn

from sparsefl.defaults import PROFILE_S
from sparsefl.names import MaskRule
from sparsefl.nn._support_layer import SupportLike
from sparsefl.profiling.arguments import (
    check_amounts,
    check_choice,
    check_model,
    make_inputs,
    silent,
    surroundings,
)
from sparsefl.profiling.assemble import assemble
from sparsefl.profiling.measure import Budget
from sparsefl.profiling.network import OptimizerName
from sparsefl.profiling.result import Profile
from sparsefl.profiling.study import Study
from sparsefl.pruning._prunable import check_density


def profile(
    model: nn.Module,
    input_shape: tuple[int, ...] | None = None,
    *,
    example_input: Tensor | tuple[Any, ...] | None = None,
    density: float = 0.1,
    batch_size: int = 32,
    layer: Literal["sparse", "sign"] = "sparse",
    masks: MaskRule | Mapping[str, SupportLike] | None = None,
    optimizer: OptimizerName = "sgd",
    threads: int | None = None,
    seconds: float = PROFILE_S,
    seed: int = 0,
    on_progress: Callable[[str, float], None] | None = None,
) -> Profile:
    """Time a network's local step dense, sparse, and with only those layers sparse that pay.

    Every layer is timed alone, on the inputs and output gradients that it had in the dense and in
    the all-sparse network, memory order included. From that follow the verdicts, and the whole step
    is timed with them, against dense and against all sparse; where either is the faster, it is the
    verdict. All comparisons are interleaved in one process. Speed does not ask what the weights
    are, so a network at its initialisation will do; accuracy is not looked at.

    The step is made of random inputs (or ``example_input``), forward in training mode, a loss,
    backward, and an optimizer step. The loss is cross-entropy with label 0 for an output
    ``[N, C]``, ``C > 1``, else the mean of squares, summed over all outputs.

    Args:
        model: Any network on the CPU; left untouched, and so is torch's random state.
        input_shape: Shape of one sample, without the batch; normal random inputs are drawn.
        example_input: A batch to use instead: a tensor, or the tuple of forward's arguments.
        density: Share of weights kept, in (0, 1].
        batch_size: Samples a step; of ``example_input`` its own.
        layer: ``"sparse"`` for real weights, ``"sign"`` for sign supermasks.
        masks: Which weights are kept: ``"synflow"`` (in as many of its 100 iterations as a sixth of
            the time allows), ``"erdos_renyi"``, ``"random"``, ``"magnitude"``; ``"own"``: the masks
            of torch.nn.utils.prune, else the zeros in the weights; or masks by parameter name.
            None: SynFlow where it can be applied, else Erdos-Renyi. Layers that stay dense keep
            all their weights whatever their mask.
        optimizer: ``"sgd"`` with momentum 0.9, or ``"adam"``, the same for all forms.
        threads: Threads of torch; None leaves them as they are.
        seconds: What it may take; how often each time was taken is said. A network of seconds a
            step takes longer.
        seed: Of random masks and inputs.
        on_progress: Called with the stage and the share of ``seconds`` that has passed.

    Returns:
        The verdicts, all times and sizes, and masks for :func:`sparsefl.sparsify`.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if an argument is out of range, the network does not train on these inputs, or
            none of its layers can be sparse.
        KeyError: if ``masks`` names a parameter that the model lacks.
    """
    check_model(model)
    check_choice("layer", layer, ("sparse", "sign"))
    check_choice("optimizer", optimizer, ("sgd", "adam"))
    density = check_density(density)
    check_amounts(batch_size, threads, seconds)
    with surroundings(threads, seed):
        inputs = make_inputs(input_shape, example_input, batch_size)
        budget = Budget(seconds, on_progress or silent)
        study = Study(model, inputs, layer, optimizer, budget)
        study.choose_masks(masks, density, seed)
        study.run()
        return assemble(study)
