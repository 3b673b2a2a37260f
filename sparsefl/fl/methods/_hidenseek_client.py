"""The client's side of HideNseek: sign layers on the masks that were sent, trained and reported."""

from collections.abc import Mapping

import torch
from torch import Tensor

from sparsefl.codec import Entry, Schema, Signs, Sparse, SupportOnly, Update, decode
from sparsefl.fl import learning_rate as rates
from sparsefl.fl.aggregation import dense_entries, dense_tensors, load_tensors
from sparsefl.fl.method import Client, Task
from sparsefl.fl.methods._hidenseek_downlink import wire_of, without_changes
from sparsefl.fl.methods._hidenseek_model import sign_layers, sign_model
from sparsefl.fl.methods._hidenseek_optimizer import open_optimizer
from sparsefl.fl.methods._hidenseek_rules import RULES, Trained, contribution
from sparsefl.fl.methods._latents import load_latents, row_major_latents


def new_client(task: Task, setup_message: bytes | None) -> Client:
    """Build the model with sign layers on the supports that were sent.

    Raises:
        CodecError: if the set-up message is refused.
        ValueError: if there is none.
    """
    if setup_message is None:
        raise ValueError("hidenseek needs its set-up message, the masks")
    model = task.new_model()
    entries = decode(setup_message, Schema.of(model)).items()
    supports = {name: entry.support for name, entry in entries if isinstance(entry, SupportOnly)}
    wire = wire_of(model, supports, task.options)
    return Client(sign_model(model, supports), wire, task.options)


def receive(client: Client, update: Update) -> None:
    """Load scores and dense parameters.

    Raises:
        ValueError: if the message lacks a tensor, or speaks of another support; nothing is loaded.
    """
    layers = sign_layers(client.model)
    sent = {name: e.support for name, e in update.items() if isinstance(e, Sparse | Signs)}
    if sent != {name: layer.support for name, layer in layers.items()}:
        raise ValueError("the broadcast's scores do not cover this client's supports")
    needed = [name for name in without_changes(client.wire.schema) if name not in layers]
    load_tensors(client.model, dense_tensors(update), needed)
    load_latents(layers, {name: contribution(update, name) for name in layers})


def remember(client: Client) -> dict[str, Tensor] | None:
    """Keep the client's own scores, where the rule has clients that keep them."""
    return row_major_latents(client.model) if RULES[client.options["rule"]].keeps else None


def recall(client: Client, memory: Mapping[str, Tensor] | None) -> None:
    """Start from ``own_share * own + (1 - own_share) * received`` scores, once there are own."""
    if memory is None:
        return
    share, received = client.options["own_share"], row_major_latents(client.model)
    mixed = {name: share * own + (1 - share) * received[name] for name, own in memory.items()}
    load_latents(sign_layers(client.model), mixed)


def optimizer(client: Client, round: int) -> torch.optim.Optimizer:
    """Open Adam on the scores and SGD on the rest."""
    scores = [layer.scores for layer in sign_layers(client.model).values()]
    held = {id(parameter) for parameter in scores}
    rest = [p for p in client.model.parameters() if p.requires_grad and id(p) not in held]
    options = client.options
    rate, dense_rate = (
        rates.learning_rate(options[name], options, round) for name in ("lr", "dense_lr")
    )
    return open_optimizer(scores, rest, rate, dense_rate, options["dense_momentum"])


def report(client: Client, received: Update, round: int) -> Update:
    """Send what the rule sends of the scores, and the dense parameters.

    Raises:
        ValueError: if a score is not finite: it has no sign.
    """
    rule = RULES[client.options["rule"]]
    entries: dict[str, Entry] = {}
    for name, after in row_major_latents(client.model).items():
        if not bool(after.isfinite().all()):
            raise ValueError(f"the scores of {name} are not finite after training")
        support = client.wire.supports[name]
        before = contribution(received, name)
        entries[name] = rule.report(
            Trained(support, before.numpy(), after.numpy(), round, client.options)
        )
    held = client.model.state_dict()
    dense = dense_entries({name: held[name] for name in dense_tensors(received)})
    return Update({**entries, **dense}, round=round)
