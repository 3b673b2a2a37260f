"""FedTiny's adaptive batch-norm selection: which candidate clients lose least with.

Huang et al., arXiv 2212.01977, stage 2; every message passes through the engine's exchange.

    down 1   pre-trained weights, and the candidates as a seed or as masks      -> pool_message
    up 1     running statistics of each, after the client's development data    -> adapt
    down 2   their means by the sizes of these data                             -> mean_statistics
    up 2     sum of losses and number of correct examples of each               -> judge
    server   the least total loss wins

Candidates of one layer are nested: each keeps the largest of the same weights. So the weights that
any of them keeps travel, and of the others none; from these and the seed a client recomputes the
pool. Where it could not (ties of weights that are 0), or ``pool`` is "masks", coded masks travel.
"""

import functools
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from sparsefl.codec import (
    Dense,
    Entry,
    Regenerated,
    Schema,
    Sparse,
    SupportOnly,
    Update,
    decode,
    encode,
)
from sparsefl.fl.aggregation import as_tensor, dense_entries, dense_tensors, load_tensors
from sparsefl.fl.batches import Dataset, concatenated
from sparsefl.fl.device import HOST, computing_on, device_of
from sparsefl.fl.exchange import Exchange
from sparsefl.fl.method import Client, Task, Wire
from sparsefl.fl.methods._fedtiny_masks import Masks, kept, masked_layers, pool, pool_size, spread
from sparsefl.fl.training import EVALUATION_BATCH, Loss, floating_dtype
from sparsefl.support import Support

Floats: TypeAlias = npt.NDArray[np.float64]
Counts: TypeAlias = npt.NDArray[np.int64]

_logger = logging.getLogger(__name__)

# Names in the messages; no module of a model is called so.
_SEED, _LOSSES, _CORRECT = "fedtiny:pool", "fedtiny:losses", "fedtiny:correct"


@dataclass(frozen=True)
class Judge(Client):
    """A client while candidates are selected: the dense model, and the pool once it has come.

    Attributes:
        task: What both sides agreed on.
        pool: The candidates.
    """

    task: Task | None = None
    pool: list[Masks] = field(default_factory=list)


@dataclass(frozen=True)
class Choice:
    """The candidate that won.

    Attributes:
        index: Its number in the pool.
        masks: Its masks, full ones among them.
        statistics: Its running means and variances; empty without batch norm.
        losses: Total loss of each candidate, ``[pool]``.
        correct: Correct examples of each.
    """

    index: int
    masks: Masks
    statistics: Mapping[str, Tensor]
    losses: Sequence[float]
    correct: Sequence[int]


def statistics_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the running means and variances of batch norms, by name."""
    return {
        f"{path}.{name}" if path else name: buffer
        for path, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        for name, buffer in module.named_buffers(recurse=False)
        if name in ("running_mean", "running_var")
    }


def schema_of(model: nn.Module, task: Task) -> Schema:
    """Return what the messages of the selection may hold: the model, and each candidate's."""
    dense, count = Schema.of(model), pool_size(task.options, task.density)
    per_candidate = [name for name, spec in dense.items() if spec.is_floating]
    own = {_of(i, name): dense[name] for i in range(count) for name in per_candidate}
    judged = {_LOSSES: ((count,), "float64"), _CORRECT: ((count,), "int64")}
    return Schema({**dense, **own, _SEED: ((1,), "float32"), **judged})


def _of(index: int, name: str) -> str:
    return f"fedtiny:{index}/{name}"


def select(model: nn.Module, task: Task, exchange: Exchange) -> Choice:
    """Let a cohort choose among the candidates of a pre-trained model.

    Raises:
        RuntimeError: if no client answers.
    """
    schema = schema_of(model, task)
    candidates = list(pool(model, task, task.seed))
    message = pool_message(model, candidates, task, schema)
    clients, statistics = exchange.cohort(), [statistics_of(model) for _ in candidates]
    if statistics[0]:
        check = functools.partial(_statistics_in, model=model, task=task, schema=schema)
        sent = exchange.ask(clients, message, adapt, check)
        sizes = {client: exchange.examples(client) for client in sent}
        statistics = mean_statistics({c: check(answer) for c, answer in sent.items()}, sizes)
        clients, message = list(sent), _statistics_message(statistics, schema)
    work = functools.partial(judge, loss=exchange.loss)
    answers = exchange.ask(clients, message, work, functools.partial(_losses_in, schema=schema))
    judged = [_losses_in(answer, schema=schema) for answer in answers.values()]
    losses = np.sum([one for one, _ in judged], axis=0)
    winner = least(losses)
    correct = np.sum([one for _, one in judged], axis=0)
    _logger.info("fedtiny: candidate %d of %d wins, losses %s", winner, len(losses), losses)
    return Choice(winner, candidates[winner], statistics[winner], losses.tolist(), correct.tolist())


def least(losses: Floats) -> int:
    """Return the candidate of least total loss, the first of equals; a NaN never wins."""
    return int(np.where(np.isnan(losses), math.inf, losses).argmin())


def new_judge(task: Task) -> Judge:
    """Build a client for the selection: the dense model; its weights come with the pool."""
    model = task.new_model()
    return Judge(model, Wire(schema_of(model, task), {}), task.options, task)


def pool_message(
    model: nn.Module, candidates: Sequence[Masks], task: Task, schema: Schema
) -> bytes:
    """Encode what the pool depends on, and the pool: as a seed where that gives it back."""
    state = model.state_dict()
    union = {name: _union([masks[name] for masks in candidates]) for name in candidates[0]}
    rest = dense_entries({name: value for name, value in state.items() if name not in union})
    masks: dict[str, Entry] = {
        _of(index, name): SupportOnly(support)
        for index, one in enumerate(candidates)
        for name, support in one.items()
    }

    def shortest(pool: Mapping[str, Entry]) -> bytes:
        weights: list[Mapping[str, Entry]] = [
            {name: Sparse(of, kept(state[name], of)) for name, of in union.items()},
            dense_entries({name: state[name] for name in union}),
        ]
        return min((encode(Update({**rest, **w, **pool}), schema) for w in weights), key=len)

    if task.options["pool"] == "seed":
        message = shortest({_SEED: Regenerated(task.seed)})
        if _pool_in(new_judge(task), message) == list(candidates):
            return message
        _logger.info("fedtiny: the seed does not give the pool back, masks travel")
    return shortest(masks)


def _union(supports: Sequence[Support]) -> Support:
    packed = functools.reduce(np.bitwise_or, (support.packed for support in supports))
    return Support.from_packed(supports[0].shape, packed)


def _pool_in(client: Judge, message: bytes) -> list[Masks]:
    """Load the weights of a pool's message into the client's model, and return the pool.

    Raises:
        CodecError: if it is refused.
        ValueError: if it lacks weights or masks.
    """
    assert client.task is not None
    update = decode(message, client.wire.schema)
    held = client.model.state_dict()
    tensors = {name: tensor for name, tensor in dense_tensors(update).items() if name in held}
    sparse = {name: entry for name, entry in update.items() if isinstance(entry, Sparse)}
    tensors |= {n: spread(as_tensor(e.values), e.support) for n, e in sparse.items()}
    load_tensors(client.model, tensors, needed=held)
    if isinstance(seed := update.get(_SEED), Regenerated):
        return list(pool(client.model, client.task, seed.seed))
    count = pool_size(client.options, client.task.density)
    names = masked_layers(client.model, client.task.density).names
    return [{name: _mask_in(update, _of(i, name)) for name in names} for i in range(count)]


def _mask_in(update: Update, name: str) -> Support:
    entry = update.get(name)
    if not isinstance(entry, SupportOnly):
        raise ValueError(f"received no mask {name}")
    return entry.support


def adapt(client: Client, dataset: Dataset, message: bytes) -> bytes:
    """Take the pool in, and answer with each candidate's statistics after the client's data."""
    assert isinstance(client, Judge)
    client.pool[:] = _pool_in(client, message)
    with _computing(client):
        adapted = [adapted_statistics(client.model, masks, dataset) for masks in client.pool]
    return _statistics_message(adapted, client.wire.schema)


def adapted_statistics(model: nn.Module, masks: Masks, dataset: Dataset) -> dict[str, Tensor]:
    """Pass data through a masked model whose batch norms alone are in training mode.

    Their running statistics move from the model's by its own momentum; no parameter does, and the
    model's buffers stay. A batch of a single example is left out, it has no variance.
    """
    weights, device = _masked_weights(model, masks), device_of(model)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.eval()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.train()
    with torch.no_grad():
        for inputs, _ in concatenated(dataset, EVALUATION_BATCH, floating_dtype(model)):
            if len(inputs) > 1:
                functional_call(model, {**weights, **buffers}, (inputs.to(device),))
    return {name: buffers[name].cpu() for name in statistics_of(model)}


def judge(client: Client, dataset: Dataset, message: bytes, loss: Loss) -> bytes:
    """Answer with the sum of losses and the correct examples of each candidate."""
    assert isinstance(client, Judge)
    model, schema = client.model, client.wire.schema
    if not statistics_of(model):
        client.pool[:] = _pool_in(client, message)
    received = dense_tensors(decode(message, schema))
    losses, correct = np.zeros(len(client.pool)), np.zeros(len(client.pool), np.int64)
    model.eval()
    with _computing(client), torch.no_grad():
        device = device_of(model)
        for index, masks in enumerate(client.pool):
            held = {name: received[_of(index, name)].to(device) for name in statistics_of(model)}
            held |= _masked_weights(model, masks)
            for batch in concatenated(dataset, EVALUATION_BATCH, floating_dtype(model)):
                inputs, labels = (part.to(device) for part in batch)
                outputs = functional_call(model, held, (inputs,))
                losses[index] += float(loss(outputs, labels)) * len(labels)
                correct[index] += int((outputs.argmax(dim=1) == labels).sum())
    answer = Update({_LOSSES: Dense(losses), _CORRECT: Dense(correct)})
    return encode(answer, schema, value_format={_LOSSES: "raw", _CORRECT: "raw"})


def _computing(client: Judge) -> AbstractContextManager[None]:
    """Return what moves a client's model to its device for a while."""
    return computing_on(HOST if client.task is None else client.task.device, client.model)


def _masked_weights(model: nn.Module, masks: Masks) -> dict[str, Tensor]:
    held, device = model.state_dict(), device_of(model)
    return {name: held[name] * support.to_mask().to(device) for name, support in masks.items()}


def _statistics_message(statistics: Sequence[Mapping[str, Tensor]], schema: Schema) -> bytes:
    """Encode the statistics of each candidate."""
    tensors = {_of(i, n): t for i, own in enumerate(statistics) for n, t in own.items()}
    return encode(Update(dense_entries(tensors)), schema)


def _statistics_in(
    answer: bytes, model: nn.Module, task: Task, schema: Schema
) -> list[dict[str, Tensor]]:
    """Return what a client measured of each candidate.

    Raises:
        CodecError: if the answer is refused.
        ValueError: if it lacks some, or one is not finite.
    """
    tensors, names = dense_tensors(decode(answer, schema)), statistics_of(model)
    count = pool_size(task.options, task.density)
    if {_of(i, n) for i in range(count) for n in names} != set(tensors):
        raise ValueError("the answer must hold the statistics of every candidate")
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise ValueError("statistics must be finite")
    return [{name: tensors[_of(i, name)] for name in names} for i in range(count)]


def mean_statistics(
    sent: Mapping[int, Sequence[Mapping[str, Tensor]]], sizes: Mapping[int, int]
) -> list[dict[str, Tensor]]:
    """Average each candidate's statistics by the sizes of the clients' data, in float64."""
    total = sum(sizes.values())
    pools = zip(*(([(sizes[c], own) for own in each]) for c, each in sent.items()), strict=True)
    return [
        {n: sum(k / total * own[n].double() for k, own in one).float() for n in one[0][1]}
        for one in pools
    ]


def _losses_in(answer: bytes, schema: Schema) -> tuple[Floats, Counts]:
    """Return a client's sums of losses, and its correct examples.

    Raises:
        CodecError: if the answer is refused.
        ValueError: if it lacks one.
    """
    update = decode(answer, schema)
    losses, correct = update.get(_LOSSES), update.get(_CORRECT)
    if not (isinstance(losses, Dense) and isinstance(correct, Dense)):
        raise ValueError("the answer must hold losses and correct examples")
    return losses.values, correct.values
