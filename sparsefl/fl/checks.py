"""What a run is given, checked before its first round and refused by name."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from sparsefl.fl.batches import Dataset, Reader
from sparsefl.fl.method import Method
from sparsefl.fl.options import check_count, check_whole
from sparsefl.fl.schedule import Schedule
from sparsefl.fl.training import floating_dtype, seeded, seeded_model
from sparsefl.pruning._prunable import check_density

_logger = logging.getLogger(__name__)

# Examples of a dataset that are read to tell it from another.
_SAMPLED = 16


class ClientData(NamedTuple):
    """The data of one client.

    Attributes:
        train: What it trains on.
        dev: What it may choose by.
        test: What it is judged by; ``dev`` is where there is none.
    """

    train: Dataset
    dev: Dataset
    test: Dataset | None = None

    @property
    def held_out(self) -> Dataset:
        """What the accuracy of this client is measured on."""
        return self.dev if self.test is None else self.test

    def named(self, number: int) -> list[tuple[str, Dataset]]:
        """List the datasets with names for messages: "clients[3] train" and so on."""
        return [
            (f"clients[{number}] {name}", data)
            for name, data in zip(self._fields, self, strict=True)
            if data is not None
        ]


def check_clients(clients: Iterable[Sequence[Dataset]]) -> list[ClientData]:
    """Check every client's datasets by type.

    Args:
        clients: ``(train, dev)`` or ``(train, dev, test)`` of each client.

    Raises:
        TypeError: if one of them is not map-style.
        ValueError: if there is no client, or none owns a training example.
    """
    clients = list(clients)
    if not clients or any(len(parts) not in (2, 3) for parts in clients):
        raise ValueError(
            "clients must be a sequence of (train, dev) or (train, dev, test), at least one"
        )
    checked = [ClientData(*parts) for parts in clients]
    for number, client in enumerate(checked):
        for name, data in client.named(number):
            check_dataset(data, name)
    if all(len(client.train) == 0 for client in checked):
        raise ValueError("clients must own training data, all datasets are empty")
    return checked


def check_dataset(data: object, name: str) -> None:
    """Refuse what cannot be read by position.

    Raises:
        TypeError: if ``data`` is no map-style dataset.
    """
    if isinstance(data, IterableDataset):
        raise TypeError(
            f"{name} is an IterableDataset ({type(data).__name__}), whose examples have no "
            "position: give a map-style dataset, for example list(data)"
        )
    if not isinstance(data, Dataset):
        raise TypeError(f"{name} must be a map-style dataset, got {type(data).__name__}")


class Counts(NamedTuple):
    """The whole numbers that a run is given, as :func:`sparsefl.fl.run` takes them."""

    rounds: int
    evaluate_every: int
    seed: int
    timed_steps: int
    threads: int | None
    checkpoint_every: int


def check_counts(
    rounds: int,
    evaluate_every: int,
    seed: int,
    schedule: Schedule,
    timed_steps: int = 0,
    threads: int | None = None,
    checkpoint_every: int = 1,
) -> Counts:
    """Return the counts and the seed as Python's own numbers.

    Raises:
        TypeError: if one of them, or of the schedule's, is no integer.
        ValueError: if one is out of range.
    """
    schedule.check()
    if not 0 <= check_whole("seed", seed) < 2**64:
        raise ValueError(f"seed must lie in [0, 2**64), got {seed}")
    return Counts(
        rounds=check_count("rounds", rounds),
        evaluate_every=check_count("evaluate_every", evaluate_every, least=0),
        seed=int(seed),
        timed_steps=check_count("timed_steps", timed_steps, least=0),
        threads=None if threads is None else check_count("threads", threads),
        checkpoint_every=check_count("checkpoint_every", checkpoint_every),
    )


def check_kept(method: Method, density: object) -> float:
    """Return the density that a run has: 1 for methods that do not prune, whatever is given.

    Raises:
        TypeError: if the method prunes, and ``density`` is not a number.
        ValueError: if it prunes, and that is outside (0, 1].
    """
    return check_density(density) if method.prunes else 1.0


def try_model(factory: Callable[[], nn.Module], seed: int, dataset: Dataset) -> tuple[Tensor, int]:
    """Run a model once on the first example of a dataset.

    Returns:
        The example, ``[1, ...]`` in the model's dtype, and the number of classes.

    Raises:
        TypeError: if the factory gives no module, or the module no tensor.
        ValueError: if the model cannot take the example, or does not give class scores, or the
            factory gives the same memory twice.
    """
    with seeded(seed), torch.no_grad():
        model = seeded_model(factory, seed).eval()
        _check_new(seeded_model(factory, seed), model)
        example, labels = Reader(dataset, floating_dtype(model)).take(np.zeros(1, np.int64))
        kind = f"{str(example.dtype).removeprefix('torch.')} {list(example.shape)}"
        try:
            scores: Any = model(example)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            pixels = "; for pixels give floating-point numbers, x.float() / 255"
            raise ValueError(
                f"the model cannot take the clients' inputs, {kind}: {error}"
                f"{'' if example.is_floating_point() else pixels}"
            ) from error
    if not isinstance(scores, Tensor):
        raise TypeError(f"the model must give a tensor of scores, it gave {type(scores).__name__}")
    wanted = "class scores [batch, classes] with at least two classes"
    if labels.dim() == 2:
        wanted = f"scores [batch, classes, {labels.shape[1]}], as there are labels"
    shape = (1, *scores.shape[1:2], *labels.shape[1:])
    if scores.shape != shape or scores.shape[1] < 2:
        raise ValueError(
            f"the model must give {wanted}, it gave {list(scores.shape)} for inputs "
            f"{list(example.shape)}"
        )
    return example, scores.shape[1]


def _check_new(model: nn.Module, before: nn.Module) -> None:
    """Refuse a model that would train the memory of one that was built before it.

    Raises:
        ValueError: if it is that module, or has a parameter of it.
    """
    held = set(_addresses(before).values())
    shared = [name for name, address in _addresses(model).items() if address in held]
    if model is before or shared:
        what = "the same module" if model is before else f"the same parameter {shared[0]!r}"
        raise ValueError(
            f"model must build a new module at each call, it gave {what} twice: server and clients "
            "would train one memory; give lambda: Net(), not lambda: net"
        )


def _addresses(model: nn.Module) -> dict[str, int]:
    """Return where parameters are in memory, of those that are anywhere."""
    made = ((n, p) for n, p in model.named_parameters() if not nn.parameter.is_lazy(p))
    found = {name: parameter.untyped_storage().data_ptr() for name, parameter in made}
    return {name: address for name, address in found.items() if address != 0}


def label_shape(data: Dataset) -> tuple[int, ...]:
    """Return the shape of the first example's label: ``()``, or ``(positions,)`` of a sequence."""
    with seeded(0):
        _, labels = Reader(data).take(np.zeros(1, np.int64))
    return tuple(labels.shape[1:])


def check_labels(data: Dataset, name: str, classes: int, shape: tuple[int, ...] = ()) -> None:
    """Compare labels with the model's classes: all that are in memory, else the first one.

    A dataset whose first example cannot be read is left to the round in which it fails.

    Raises:
        TypeError: if labels are no integers, or items no pairs.
        ValueError: if a label is out of range, or of another shape than ``shape``.
    """
    reader = Reader(data)
    try:
        labels = reader.labels()
        if labels is None and len(data) > 0:
            with seeded(0):
                _, labels = reader.take(np.zeros(1, np.int64))
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    except Exception as error:  # whatever a dataset of the user's raises
        _logger.warning("%s: its first example cannot be read: %s", name, error)
        return
    if labels is not None and tuple(labels.shape[1:]) != shape:
        wanted = f"labels of shape {list(shape)}" if shape else "one class number an example"
        raise ValueError(f"{name} must have {wanted}, got shape {list(labels.shape[1:])}")
    if labels is not None and labels.numel() > 0:
        least, most = int(labels.min()), int(labels.max())
        if least < 0 or most >= classes:
            wrong = least if least < 0 else most
            raise ValueError(f"{name} has label {wrong}, the model's classes are 0..{classes - 1}")


def data_sha256(data: Dataset) -> str:
    """Tell a client's data from another's of the same size, without reading all of it.

    Of data in memory, all labels and the first inputs count. Of others, whose inputs may be drawn
    anew at each read, the first labels do; where these cannot be read, "unreadable" is returned.
    """
    reader, first = Reader(data), np.arange(min(_SAMPLED, len(data)))
    digest = hashlib.sha256()
    try:
        labels = reader.labels()
        if first.size > 0:
            with seeded(0):
                inputs, first_labels = reader.take(first)
            # Of one dtype, whatever kind of number the inputs are.
            digest.update(b"" if labels is None else inputs.double().numpy().tobytes())
            digest.update((first_labels if labels is None else labels).numpy().tobytes())
    except Exception as error:  # whatever a dataset of the user's raises
        _logger.warning("a client's data cannot be read: %s", error)
        return "unreadable"
    return digest.hexdigest()
