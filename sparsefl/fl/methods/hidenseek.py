"""HideNseek: the server prunes once at initialisation, clients train a sign supermask.

Vallapuram, Zhou, Kwon, Lee, Xu, Hui, "HideNseek: federated lottery ticket via server-side pruning
and sign supermask", 2022, arXiv 2206.04385.

    abstract               one-shot, data-agnostic pruning at initialisation by synaptic saliency on
                           the server                          -> init, sparsefl.pruning.synflow
    abstract               clients optimise a sign supermask in {-1, +1} times the unpruned weights
                                                               -> sparsefl.nn.SignLinear, SignConv2d
    abstract               personalisation is a goal           -> rule "personal", personal_model

    W_eff = c_l * M * sgn(s), c_l = sqrt(2 / fan_in) / sqrt(density_l); ds = dL/dW_eff * c_l on M

Only the paper's opening was read for this file. What is **ours**, not to be taken for its own:

- every aggregation rule (see :mod:`sparsefl.fl.methods._hidenseek_rules`), ``sign_update`` by
  default: the server keeps real scores s; a client starts from them, trains, and sends for each
  layer the signs of its score change and their mean size, ``sign_k = sgn(s_k - s)``,
  ``scale_k = mean |s_k - s|`` -> report; ``s += sum_k p_k * scale_k * sign_k`` -> aggregate;
- the first and the last layer stay dense, ``dense_layers``, as is common for binarised networks
  (Rastegari et al., "XNOR-Net", ECCV 2016, arXiv 1603.05279): a flip among the few weights of an
  outer layer moves every output, and signs there cost far more accuracy than their floats cost
  bytes (see _hidenseek_options). ``density`` is of all linear and convolution weights, before
  these layers are taken out;
- biases are kept, dense;
- ``structure``, "block:16x16" or "rows" for example (:mod:`sparsefl.pruning`), has SynFlow keep
  whole rectangles of weights; "unstructured" by default;
- scores start at the Kaiming-normal weights that were pruned, rescaled to one standard deviation a
  layer, ``score_std``: the forward pass sees only their signs, and layers then flip at equal rates;
- clients use Adam on the scores: its steps are of one size in every layer, as the one scale of the
  uplink assumes (see _hidenseek_options);
- every other parameter (dense layers, biases, norms) is trained by SGD and averaged as in FedAvg,
  like the buffers.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from sparsefl.codec import SupportOnly, Update, encode
from sparsefl.fl.aggregation import cast_like, dense_entries
from sparsefl.fl.flops import PASSES_PER_STEP
from sparsefl.fl.method import Method, Task, Wire
from sparsefl.fl.methods import _hidenseek_copies as copies
from sparsefl.fl.methods._hidenseek_client import (
    new_client,
    optimizer,
    recall,
    receive,
    remember,
    report,
)
from sparsefl.fl.methods._hidenseek_copies import Copies
from sparsefl.fl.methods._hidenseek_downlink import score_entry, wire_of, without_changes
from sparsefl.fl.methods._hidenseek_model import draw_kaiming, first_scores, prune, signed_model
from sparsefl.fl.methods._hidenseek_options import CHOICES, DEFAULTS, check
from sparsefl.fl.methods._hidenseek_rules import RULES, Pooled, Rule
from sparsefl.fl.pool import Mean


@dataclass(frozen=True)
class State:
    """The server's state.

    Attributes:
        scores: Real scores of each pruned weight, ``[nnz]`` float32, row-major.
        dense: Every other parameter and buffer.
        memory: What the rule remembers of each layer, by name.
        parameters: Number of trained parameters among ``dense``.
        wire: How messages are encoded; its supports are the masks.
        options: The method's options.
        copies: What clients hold of the scores, where these travel as changes of it.
    """

    scores: Mapping[str, Tensor]
    dense: Mapping[str, Tensor]
    memory: Mapping[str, Mapping[str, Tensor]]
    parameters: int
    wire: Wire
    options: Mapping[str, Any]
    copies: Copies | None = None

    @property
    def rule(self) -> Rule:
        """The aggregation rule."""
        return RULES[self.options["rule"]]


def init(task: Task) -> State:
    """Prune Kaiming-normal weights by SynFlow, and turn what is kept into scores.

    Raises:
        ValueError: if the model cannot be signed.
    """
    model = task.new_model()
    draw_kaiming(model, task.seed)
    supports = prune(model, task)
    dense = {k: v.clone() for k, v in model.state_dict().items() if k not in supports}
    scores = first_scores(model, supports, task.options["score_std"])
    wire = wire_of(model, supports, task.options)
    return State(
        scores=scores,
        dense=dense,
        memory={},
        parameters=sum(p.numel() for k, p in model.named_parameters() if k not in supports),
        wire=wire,
        options=task.options,
        copies=copies.first(wire, scores, task.options),
    )


def setup(state: State) -> bytes | None:
    """Send the masks, once."""
    masks = {name: SupportOnly(support) for name, support in state.wire.supports.items()}
    return encode(Update(masks), without_changes(state.wire.schema))


def broadcast(state: State, round: int) -> Update:
    """Send scores, or their signs where the rule sends signs, and dense parameters."""
    entries = copies.held(state.copies, state.wire) or {
        name: score_entry(state.wire.supports[name], scores.numpy(), state.options)
        for name, scores in state.scores.items()
    }
    return Update({**entries, **dense_entries(state.dense)}, round=round)


def aggregate(state: State, mean: Mean) -> State:
    """Move the scores by the rule, and average the dense parameters."""
    scores, memory = {}, {}
    for name, held in state.scores.items():
        remembered = state.memory.get(name, {})
        pooled = Pooled(held.double(), mean.tensors[name], remembered, mean.clients, state.options)
        moved, memory[name] = state.rule.move(pooled)
        scores[name] = moved.float()
    dense = cast_like(state.dense, mean.tensors)
    following = copies.following(state.copies, state.wire, scores)
    return replace(state, scores=scores, memory=memory, dense=dense, copies=following)


def global_model(task: Task, state: State) -> nn.Module:
    """Return the global model in plain torch: ``c * sgn(s)`` on the masks, 0 elsewhere."""
    return signed_model(task, state.wire.supports, state.scores, state.dense)


def personal_model(
    task: Task, state: State, memory: Mapping[str, Tensor] | None
) -> nn.Module | None:
    """Return a client's own model in plain torch: its own signs, the common dense parameters.

    Args:
        task: As of the run.
        state: The server's.
        memory: What the client remembers; one that has never trained has the global model.

    Returns:
        The model, or ``None`` where the rule has clients without scores of their own.
    """
    if not state.rule.keeps:
        return None
    scores = state.scores if memory is None else memory
    return signed_model(task, state.wire.supports, scores, state.dense)


def claimed_uplink_bytes(state: State) -> int:
    """Return 1 bit a kept weight (4 bytes for ``score``) and 4 bytes an unpruned parameter."""
    kept = sum(support.nnz for support in state.wire.supports.values())
    bits = 32 if state.options["rule"] == "score" else 1
    return math.ceil(bits * kept / 8) + 4 * state.parameters


def claimed_flops(state: State, forward: Mapping[str, int]) -> int:
    """Return ``3 * sum_l density_l F_l``: all three passes on the kept weights alone."""
    supports = state.wire.supports
    return PASSES_PER_STEP * round(
        sum(f * (supports[n].density if n in supports else 1.0) for n, f in forward.items())
    )


METHOD = Method(
    name="hidenseek",
    defaults=DEFAULTS,
    init=init,
    setup=setup,
    server_wire=lambda state: state.wire,
    new_client=new_client,
    broadcast=broadcast,
    receive=receive,
    optimizer=optimizer,
    report=report,
    aggregate=aggregate,
    global_model=global_model,
    claimed_uplink_bytes=claimed_uplink_bytes,
    claimed_flops=claimed_flops,
    prunes=True,
    check=check,
    choices=CHOICES,
    remember=remember,
    recall=recall,
    personal_model=personal_model,
    version=lambda state: state.copies.version if state.copies else 0,
    changes=lambda state, broadcast, version: copies.changes(state.copies, broadcast, version),
    held=lambda state, version: copies.held(state.copies, state.wire, version),
    whole=copies.whole,
)
