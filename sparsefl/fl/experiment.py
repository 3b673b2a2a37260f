"""Runs by name: a data set, its partition among clients, a model, a method."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn
from torch.utils.data import Subset

from sparsefl import data, defaults, models
from sparsefl.fl.batches import Dataset
from sparsefl.fl.capabilities import check_capabilities, spread
from sparsefl.fl.checks import check_clients, check_counts, check_kept, label_shape, try_model
from sparsefl.fl.ledger import Round
from sparsefl.fl.loading import call, load_data
from sparsefl.fl.method import Task, load_method
from sparsefl.fl.options import check_count
from sparsefl.fl.result import Result
from sparsefl.fl.runner import Description, run
from sparsefl.fl.schedule import Schedule
from sparsefl.names import LINEAR
from sparsefl.timing import TIMED_STEPS

# Images of the training set that the server holds out, to choose learning rates on: never the test
# set. Where they would be more than a fifth of a small data set, a fifth is.
HELD_OUT = 5000
# Images of the training set that the server trains on itself, where a method does; ours, FedTiny
# says "small" (arXiv 2212.01977). A fifth of a small data set at most.
PUBLIC_EXAMPLES = 1000
# Each client keeps a tenth of its data to judge the global model by.
CLIENT_DEV_SHARE = 0.1
# Each client has the examples that the data say are its own.
NATURAL = "natural"
# Chosen on the development data like every method's own: with FedAvg's defaults softmax regression
# oscillates.
LINEAR_OPTIONS = {"lr": 0.02, "lr_decay": 0.95}


@dataclass(frozen=True)
class Setting:
    """What is trained on what.

    Attributes:
        dataset: Name of a data set, or "package.module:function" that gives
            ``([(train, dev), ...], test)``, with ``public`` after it where the server has data.
        model: Name of a model, or "package.module:function" that gives a module.
        data_dir: Folder of the data set's files.
        norm: Normalisation of a named model.
        model_options: What else a named model takes, ``{"width": 0.5}`` for example.
        clients: Number of clients.
        capabilities: Shares of the weights that clients can train, given to them in turn: client k
            has number ``k mod n`` of the n; all can train all where there are none.
        partition: "iid", "dirichlet:ALPHA", "shards:PER_CLIENT", or "natural": as the data say
            whose they are, those of the clients with most.
        client_test: Share of each client's examples that it is judged by at the end; without any,
            its development data serve.
        rounds: Rounds of federated training.
        density: Share of weights kept, for methods that prune.
        schedule: Cohort, batch and local work.
        dev_examples: Held-out images that judge a round; the curve's, not the result's.
        public_examples: Images held out for the server to train on, neither a client's nor
            development nor test data; ``None`` is ``PUBLIC_EXAMPLES`` where a method of the
            comparison trains on them, and none elsewhere.
        evaluate_every: Rounds between two points of the curve.
        checkpoint_every: Rounds between two checkpoints.
        threads: Threads of torch.
        device: Where clients compute: "cpu", "cuda" or "cuda:N".
        timed_steps: Local steps that are timed.
        memory: Whether memory is measured, in fresh processes.
    """

    dataset: str = "fashion-mnist"
    model: str = defaults.MODEL
    data_dir: str | None = None
    norm: models.Norm = None
    clients: int = defaults.CLIENTS
    capabilities: list[float] | None = None
    partition: str = defaults.PARTITION
    client_test: float = 0.0
    rounds: int = defaults.ROUNDS
    density: float = defaults.DENSITY
    schedule: Schedule = field(default_factory=Schedule)
    dev_examples: int | None = None
    public_examples: int | None = None
    evaluate_every: int = 1
    checkpoint_every: int = 1
    threads: int | None = None
    device: str = "cpu"
    timed_steps: int = TIMED_STEPS
    memory: bool = False
    model_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """Data in the clients' hands.

    Attributes:
        clients: ``(train, dev)`` or ``(train, dev, test)`` of each client.
        dev: The server's development data; ``None`` for a user's own clients.
        test: Test data.
        in_shape: Shape of a sample, where the data set says so.
        classes: Number of labels, where it does.
        label: What reports call the data; a copy that is not the official one says so.
        public: The server's own examples to train on, where there are any.
    """

    clients: list[tuple[Dataset, ...]]
    dev: Dataset | None
    test: Dataset
    in_shape: tuple[int, int, int] | None = None
    classes: int | None = None
    label: str = "own data"
    public: Dataset | None = None


def load_problem(setting: Setting, seed: int, methods: Sequence[str] = ()) -> Problem:
    """Load the data and divide it among the clients.

    The server's held-out images do not depend on ``seed``; partition and local splits do.

    Args:
        setting: What is trained on what.
        seed: Of the run.
        methods: Those that will be compared: where one trains on public data, all do without them
            at the clients.

    Raises:
        FileNotFoundError: if the data set's files are not there.
        ValueError: if there is no such data set, or it cannot be divided so.
    """
    if ":" in setting.dataset:
        clients, test, public = load_data(setting.dataset)
        return Problem(clients, None, test, label=setting.dataset, public=public)
    train, test, info = data.load(setting.dataset, setting.data_dir)
    most = len(train) // 5
    rest, dev = data.hold_out(train, min(HELD_OUT, most), seed=0)
    public = None
    if wanted := _public_examples(setting, methods):
        rest, public = data.hold_out(rest, min(wanted, most), seed=0)
    parts = _divide(setting, rest, info.owners, seed)
    clients = [
        _local_splits(data.subset(rest, part), setting.client_test, seed=1 + number)
        for number, part in enumerate(parts)
    ]
    if setting.dev_examples is not None:
        dev = data.subset(dev, range(min(setting.dev_examples, len(dev))))
    label = f"{info.label or setting.dataset}, {setting.partition}"
    return Problem(clients, dev, test, info.in_shape, info.num_classes, label, public)


def _public_examples(setting: Setting, methods: Sequence[str]) -> int:
    """Return how many examples the server keeps to train on itself."""
    if setting.public_examples is not None:
        check_count("public_examples", setting.public_examples, least=0)
        return setting.public_examples
    needed = any(load_method(name).trains_on_public for name in methods if name != LINEAR)
    return PUBLIC_EXAMPLES if needed else 0


def _divide(setting: Setting, rest: Any, owners: Any, seed: int) -> data.partition.Part:
    """Divide the examples of a ``Subset`` among the clients."""
    if setting.partition == NATURAL:
        if owners is None:
            raise ValueError(f"partition {NATURAL}: {setting.dataset} does not say whose it is")
        return data.partition.by_owner(owners[_positions(rest)], setting.clients)
    labels = data.labels_of(rest)
    if labels.ndim != 1:
        raise ValueError(
            f"partition must be {NATURAL}: the examples of {setting.dataset} have many labels each,"
            f" got {setting.partition!r}"
        )
    return data.partition.split(setting.partition, labels, setting.clients, seed=seed)


def _positions(dataset: Any) -> data.partition.IndexArray:
    """Return where the examples of a ``Subset``, or of one of one, were before it was cut."""
    if isinstance(dataset, Subset):
        return _positions(dataset.dataset)[np.asarray(dataset.indices, np.int64)]
    return np.arange(len(dataset))


def _local_splits(own: Any, test_share: float, seed: int) -> tuple[Dataset, ...]:
    """Divide a client's examples into training, development and, if any is asked for, test data."""
    if not 0 <= test_share <= 1 - 2 * CLIENT_DEV_SHARE:
        raise ValueError(
            f"client_test must lie in [0, {1 - 2 * CLIENT_DEV_SHARE:g}], got {test_share}"
        )
    # A client of few examples keeps none for itself rather than nothing to train on.
    train, dev = data.hold_out(own, int(CLIENT_DEV_SHARE * len(own)), seed=seed)
    if test_share == 0:
        return train, dev
    train, test = data.hold_out(train, int(test_share * len(own)), seed=seed)
    return train, dev, test


def _model_cell(setting: Setting, model: str, problem: Problem) -> dict[str, Any]:
    """Describe the model's factory so that another process can call it."""
    if ":" in model:
        return {"factory": model, "arguments": {}}
    if problem.in_shape is None or problem.classes is None:
        raise ValueError("own data needs an own model, --model package.module:Net")
    arguments = {
        "name": model,
        "in_shape": problem.in_shape,
        "num_classes": problem.classes,
        "norm": None if model == LINEAR else setting.norm,
        **_options_of(model, setting),
    }
    return {"factory": "sparsefl.models:build", "arguments": arguments}


def _options_of(model: str, setting: Setting) -> Mapping[str, Any]:
    """Return the setting's options of a model; the linear row beside another model has none."""
    return setting.model_options if model == setting.model else {}


@dataclass(frozen=True)
class Prepared:
    """One method of a comparison, as :func:`sparsefl.fl.run` takes it.

    Attributes:
        method: Its name there: "linear" is FedAvg.
        model: Name of its model, its options included.
        factory: Builds the model.
        options: Its options that differ from the defaults.
        cell: "factory" and "arguments" of the model for another process.
    """

    method: str
    model: str
    factory: Callable[[], nn.Module]
    options: Mapping[str, Any]
    cell: Mapping[str, Any]


def prepare(
    method: str, setting: Setting, problem: Problem, options: Mapping[str, Any] | None = None
) -> Prepared:
    """Find the model and the options of one method.

    Args:
        method: As of :func:`play`.
        setting: As of it.
        problem: As of it.
        options: As of it.

    Raises:
        ValueError: if own data come with a named model.
    """
    own = LINEAR_OPTIONS if method == LINEAR else {}
    given = {**own, **(options or {})}
    name = "fedavg" if method == LINEAR else method
    model = LINEAR if method == LINEAR else setting.model
    if method == LINEAR and problem.in_shape is None:
        cell = _linear_cell(setting, problem)
        return Prepared(
            name, model, functools.partial(flat_linear, **cell["arguments"]), given, cell
        )
    cell = _model_cell(setting, model, problem)
    factory = (
        functools.partial(call, model)
        if ":" in model
        else functools.partial(models.build, **cell["arguments"])
    )
    named = [f"{key}={value}" for key, value in _options_of(model, setting).items()]
    return Prepared(name, " ".join([model, *named]), factory, given, cell)


def _linear_cell(setting: Setting, problem: Problem) -> dict[str, Any]:
    """Describe softmax regression for own data, with as many classes as the own model has."""
    own = functools.partial(call, setting.model)
    example, classes = try_model(own, 0, _first_examples(problem))
    arguments = {"inputs": example[0].numel(), "classes": classes}
    return {"factory": "sparsefl.fl.experiment:flat_linear", "arguments": arguments}


def flat_linear(inputs: int, classes: int) -> nn.Module:
    """Return softmax regression on samples of any shape."""
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes))


def _first_examples(problem: Problem) -> Dataset:
    """Return the training data of the first client that owns any.

    Raises:
        ValueError: if none does.
    """
    for client in problem.clients:
        if client and len(client[0]) > 0:
            return client[0]
    raise ValueError("clients must own training data, all datasets are empty")


def _memory_cell(problem: Problem, prepared: Prepared, seed: int) -> dict[str, Any]:
    """Describe model and inputs for the process that measures memory, by the first example."""
    example, classes = try_model(prepared.factory, seed, _first_examples(problem))
    return {
        **prepared.cell,
        "input_shape": tuple(example.shape[1:]),
        "classes": classes,
        "dtype": str(example.dtype).removeprefix("torch."),
        "label_shape": label_shape(_first_examples(problem)),
    }


def check(
    method: str,
    setting: Setting,
    problem: Problem,
    seed: int,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Try what can be tried of :func:`play` without training: data, model, options, counts.

    Args:
        method: As of it.
        setting: As of it.
        problem: As of it.
        seed: As of it.
        options: As of it.

    Raises:
        TypeError, ValueError: as ``play``.
    """
    prepared = prepare(method, setting, problem, options)
    check_counts(
        setting.rounds,
        setting.evaluate_every,
        seed,
        setting.schedule,
        checkpoint_every=setting.checkpoint_every,
    )
    chosen, clients = load_method(prepared.method), len(check_clients(problem.clients))
    given, density = chosen.with_defaults(prepared.options), check_kept(chosen, setting.density)
    check_capabilities(chosen, spread(setting.capabilities or [], clients), clients, given)
    example, _ = try_model(prepared.factory, seed, _first_examples(problem))
    if chosen.check_model is not None:
        chosen.check_model(Task(prepared.factory, example, seed, density, given))


def play(
    method: str,
    setting: Setting,
    problem: Problem,
    seed: int,
    options: Mapping[str, Any] | None = None,
    on_round: Callable[[Round], None] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
) -> Result:
    """Run one method of a comparison.

    Args:
        method: A method of ``sparsefl.fl.METHODS``, or "linear": softmax regression under FedAvg.
        setting: What is trained.
        problem: The data, as :func:`load_problem` gives it.
        seed: Seed of the run.
        options: The method's options.
        on_round: Called after each round.
        checkpoint: Folder of the checkpoint.
        resume: Go on from it, where there is one.

    Raises:
        ValueError: if a name or an option is unknown.
    """
    prepared = prepare(method, setting, problem, options)
    memory_cell = _memory_cell(problem, prepared, seed) if setting.memory else None
    return run(
        prepared.method,
        prepared.factory,
        problem.clients,
        problem.test,
        density=setting.density,
        rounds=setting.rounds,
        seed=seed,
        schedule=setting.schedule,
        options=prepared.options,
        dev=problem.dev,
        public=problem.public,
        capabilities=spread(setting.capabilities or [], len(problem.clients)),
        evaluate_every=setting.evaluate_every,
        threads=setting.threads,
        device=setting.device,
        timed_steps=setting.timed_steps,
        description=Description(method, prepared.model, problem.label, memory_cell),
        on_round=on_round,
        checkpoint=checkpoint,
        checkpoint_every=setting.checkpoint_every,
        resume=resume,
    )
