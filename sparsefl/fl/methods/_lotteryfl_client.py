"""The client's side of LotteryFL: sparse layers on a mask of its own, pruned and rewound."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sparsefl.codec import Entry, Schema, Sparse, Update
from sparsefl.fl.aggregation import as_tensor, dense_entries, dense_tensors, load_tensors
from sparsefl.fl.method import Client, Task, Wire
from sparsefl.fl.methods._latents import load_latents, row_major_latents, support_layers
from sparsefl.nn import report as sparsity_report
from sparsefl.nn import sparsify
from sparsefl.pruning._prunable import keep_largest, prunable_weights
from sparsefl.support import Support

# Names of what the server adds up beside the weights: which clients keep them, and how many each.
KEPT, COUNT = "lotteryfl:kept/", "lotteryfl:count"


@dataclass(frozen=True)
class Player(Client):
    """A client.

    Attributes:
        initial: Parameters of the model at the start, by name: w_0.
        density: Share of each layer's weights at which pruning ends.
    """

    initial: Mapping[str, Tensor] = field(default_factory=dict)
    density: float = 1.0


def whole_of(model: nn.Module) -> dict[str, Support]:
    """Return the supports that keep all of every weight that is masked, by name."""
    weights = prunable_weights(model).items()
    return {name: Support.from_mask(torch.ones(w.shape, dtype=torch.bool)) for name, w in weights}


def wire_of(model: nn.Module, supports: Mapping[str, Support]) -> Wire:
    """Return how messages travel, and what the server adds up beside them."""
    schema = Schema.of(model)
    kept = {f"{KEPT}{name}": (schema[name].shape, "float32") for name in prunable_weights(model)}
    own = Schema({**schema, **kept, COUNT: ((1,), "int64")})
    return Wire(own, supports, gathered=frozenset({COUNT}))


def new_client(task: Task, setup_message: bytes | None) -> Player:
    """Build the sparse model, which keeps everything; w_0 is drawn from the run's seed.

    Raises:
        ValueError: if a layer has to stay dense, or shares its weight with another.
    """
    model = task.new_model()
    whole = whole_of(model)
    initial = {name: p.detach().clone() for name, p in model.named_parameters()}
    wire, converted = wire_of(model, whole), sparsify(model, whole)
    if set(support_layers(converted)) != set(whole):
        raise ValueError(f"lotteryfl needs sparse layers everywhere: {sparsity_report(converted)}")
    return Player(converted, wire, task.options, initial, task.density)


def receive(client: Client, update: Update) -> None:
    """Take the mask that the message is of, and load its weights and everything else.

    Raises:
        ValueError: if the message lacks a tensor; nothing is loaded.
    """
    layers = support_layers(client.model)
    sparse = {name: entry for name, entry in update.items() if isinstance(entry, Sparse)}
    if sparse.keys() != layers.keys():
        raise ValueError("the broadcast's weights do not cover this client's sparse layers")
    own = (KEPT, COUNT)
    others = [n for n in client.wire.schema if n not in layers and not n.startswith(own)]
    load_tensors(client.model, dense_tensors(update), others)
    supports = {name: entry.support for name, entry in sparse.items()}
    values = {name: as_tensor(entry.values) for name, entry in sparse.items()}
    load_masked(client.model, supports, values)


def load_masked(
    model: nn.Module, supports: Mapping[str, Support], values: Mapping[str, Tensor]
) -> None:
    """Put weights on their masks into the sparse layers; ``values`` ``[nnz]``, row-major."""
    layers = support_layers(model)
    for name, support in supports.items():
        if layers[name].support != support:
            layers[name].set_support(support)
    load_latents(layers, values)


def adapt(client: Client, accuracy: Callable[[], float]) -> None:
    """Prune and go back to the start, where the kept weights are good enough as they came."""
    assert isinstance(client, Player)
    held = {name: layer.support for name, layer in support_layers(client.model).items()}
    left = {
        n: pruned_count(s, client.options["prune_share"], client.density) for n, s in held.items()
    }
    if all(left[name] == held[name].nnz for name in held):
        return
    if not accuracy() > client.options["threshold"]:
        return
    supports, values = {}, {}
    for name, weights in row_major_latents(client.model).items():
        kept = held[name].indices[keep_largest(weights.abs(), left[name]).numpy()]
        supports[name] = Support.from_indices(held[name].shape, kept)
        values[name] = client.initial[name].flatten()[torch.tensor(kept)]
    load_masked(client.model, supports, values)
    load_tensors(client.model, {n: v for n, v in client.initial.items() if n not in supports})


def pruned_count(support: Support, share: float, density: float) -> int:
    """Return how many of a mask's weights a step of pruning leaves: never fewer than at the end."""
    end = max(1, round(density * support.numel))
    return min(support.nnz, max(end, round((1 - share) * support.nnz)))


def remember(client: Client) -> dict[str, Support]:
    """Keep the mask."""
    return {name: layer.support for name, layer in support_layers(client.model).items()}


def report(client: Client, received: Update, round: int) -> Update:
    """Send the kept weights with their mask, and everything else.

    Raises:
        ValueError: if a weight is not finite.
    """
    masks = remember(client)
    sent: dict[str, Entry] = {}
    for name, values in row_major_latents(client.model).items():
        if not bool(values.isfinite().all()):
            raise ValueError(f"{name} is not finite after training")
        sent[name] = Sparse(masks[name], values)
    held = client.model.state_dict()
    return Update({**sent, **dense_entries({n: held[n] for n in dense_tensors(received)})}, round)
