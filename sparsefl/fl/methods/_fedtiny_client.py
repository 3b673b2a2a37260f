"""The client's side of FedTiny: layers whose supports change, and gradients of pruned weights."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from sparsefl.codec import Dense, Entry, Regenerated, Schema, Sparse, SupportOnly, Update, decode
from sparsefl.fl.aggregation import as_tensor, dense_entries, dense_tensors, load_tensors
from sparsefl.fl.method import Client, Task
from sparsefl.fl.methods._fedtiny_masks import pruned, sparse_model, static_masks
from sparsefl.fl.methods._fedtiny_pruning import COUNTS, growth_name, wire_of
from sparsefl.fl.methods._fedtiny_selection import new_judge
from sparsefl.fl.methods._latents import load_latents, row_major_latents, support_layers
from sparsefl.ops import Growth
from sparsefl.pruning import watch_growth
from sparsefl.support import Support


@dataclass(frozen=True)
class Trainee(Client):
    """A client between its messages.

    Attributes:
        counts: How many gradients of each layer the broadcast asked for.
        found: What the last step has found.
    """

    counts: dict[str, int] = field(default_factory=dict)
    found: dict[str, Growth] = field(default_factory=dict)


def new_client(task: Task, setup_message: bytes | None) -> Client:
    """Build the sparse model on the first masks; before there are any, one for the selection.

    Raises:
        CodecError: if the set-up message is refused.
        ValueError: if a layer cannot be sparse.
    """
    if setup_message is None:
        return new_judge(task)
    model = task.new_model()
    schema = Schema.of(model)
    entries = decode(setup_message, schema)
    supports = {n: entry.support for n, entry in entries.items() if isinstance(entry, SupportOnly)}
    if seeds := {entry.seed for entry in entries.values() if isinstance(entry, Regenerated)}:
        supports = pruned(static_masks(model, task, seeds.pop()))
    return Trainee(sparse_model(model, supports), wire_of(schema, supports), task.options)


def receive(client: Client, update: Update) -> None:
    """Load weights on their supports, which may have changed, and everything dense.

    Raises:
        ValueError: if the message lacks a tensor; nothing is loaded.
    """
    assert isinstance(client, Trainee)
    layers = support_layers(client.model)
    sparse = {name: entry for name, entry in update.items() if isinstance(entry, Sparse)}
    if sparse.keys() != layers.keys():
        raise ValueError("the broadcast's weights are not those of this client's sparse layers")
    dense = {n: tensor for n, tensor in dense_tensors(update).items() if n != COUNTS}
    needed = set(client.wire.schema) - client.wire.gathered - set(layers)
    load_tensors(client.model, dense, needed)
    for name, entry in sparse.items():
        if layers[name].support != entry.support:
            layers[name].set_support(entry.support)
    load_latents(layers, {name: as_tensor(entry.values) for name, entry in sparse.items()})
    client.counts.clear()
    client.found.clear()
    if isinstance(counts := update.get(COUNTS), Dense):
        asked = zip(sorted(sparse), counts.values.tolist(), strict=True)
        client.counts.update({name: count for name, count in asked if count})


@contextlib.contextmanager
def last_step(client: Client) -> Iterator[None]:
    """Find the gradients that the broadcast asked for, in the last step's backward pass."""
    assert isinstance(client, Trainee)
    with watch_growth(client.model, client.counts) as found:
        yield
    client.found.update(
        {name: Growth(*(part.cpu() for part in own)) for name, own in found.items()}
    )


def report(client: Client, received: Update, round: int) -> Update:
    """Send the trained weights, everything dense, and the gradients that were asked for.

    Raises:
        ValueError: if one of them is not finite.
    """
    assert isinstance(client, Trainee)
    sent: dict[str, Entry] = {}
    for name, values in row_major_latents(client.model).items():
        sent[name] = Sparse(support_layers(client.model)[name].support, values)
    for name, (indices, gradients) in client.found.items():
        at = Support.from_indices(client.wire.schema[name].shape, indices.numpy())
        sent[growth_name(name)] = Sparse(at, gradients)
    for name, entry in sent.items():
        if isinstance(entry, Sparse) and not bool(np.isfinite(entry.values).all()):
            raise ValueError(f"{name} is not finite after training")
    held = client.model.state_dict()
    dense = {n: held[n] for n in dense_tensors(received) if n != COUNTS}
    return Update({**sent, **dense_entries(dense)}, round=round)
