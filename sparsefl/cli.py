"""The command line: ``sparsefl compare | run | bench | info``.

Parsing needs neither torch nor the compiled modules: they load with the command that uses them, so
that ``--help`` is quick and ``info`` can say what is missing.
"""

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

_METHODS = ("fedavg", "fedpt", "hidenseek")
_ROWS = ("linear", *_METHODS)
_DATASETS = ("fashion-mnist", "digits")
# So that `make demo` ends within six minutes on two cores, installs included.
_COMPARE: dict[str, Any] = {"rounds": 25, "steps": 12, "batch": 16, "out": "compare"}
_COMPARE_DEV, _COMPARE_EVERY = 1000, 2
_USER_ERRORS = (ValueError, TypeError, FileNotFoundError, ModuleNotFoundError, RuntimeError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, or 2 after an error of the user's.

    Args:
        argv: Arguments; ``sys.argv[1:]`` if absent.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["bench"]:
        return _bench(arguments[1:])
    parser = _parser()
    try:
        args = parser.parse_args(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    command: Callable[[argparse.Namespace], int] = args.command
    # The current folder is importable, as for `python -m`, so that package.module:Net is found.
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return command(args)
    except _USER_ERRORS as error:
        if os.environ.get("SPARSEFL_TRACEBACK"):
            raise
        print(f"sparsefl: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sparsefl: interrupted", file=sys.stderr)
        return 130


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sparsefl",
        description="Sparse federated learning whose FLOP and byte savings you can time.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_compare(commands)
    _add_run(commands)
    # Only listed here: main hands its arguments to the benchmark's own parser.
    commands.add_parser("bench", help="time the operators against dense torch", add_help=False)
    info = commands.add_parser("info", help="versions, instruction set, what is available")
    info.set_defaults(command=_info)
    return parser


def _add_compare(commands: Any) -> None:
    compare = commands.add_parser(
        "compare",
        help="methods side by side on real data, claimed beside measured",
        description="Train several methods on the same clients; print a table, and write plots and "
        "compare.json. The defaults train the EMNIST CNN on Fashion-MNIST (the digits where that "
        "is not to be had).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _add_setting(compare, **_COMPARE)
    compare.add_argument(
        "--methods", type=_names(_ROWS), default=",".join(_ROWS), help="comma-separated"
    )
    compare.add_argument("--seeds", type=_integers, default="0", help="comma-separated")
    compare.add_argument(
        "--timed-steps", type=int, default=50, help="steps timed against dense, 0 for none"
    )
    compare.add_argument("--no-memory", action="store_true", help="do not measure memory")
    compare.add_argument("--no-plots", action="store_true", help="draw nothing")
    compare.set_defaults(command=_compare)


def _add_run(commands: Any) -> None:
    run = commands.add_parser(
        "run",
        help="one method, one run",
        description="Train by one method; write DIR/log.jsonl, a line a round, and "
        "DIR/result.json.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    run.add_argument("method", choices=_METHODS, metavar="METHOD", help=", ".join(_METHODS))
    _add_setting(run, rounds=10, steps=None, batch=32, out="run")
    run.add_argument(
        "--data", metavar="PKG.MOD:CLIENTS", help="own data: gives ([(train, dev), ...], test)"
    )
    run.add_argument("--lr", type=float, help="clients' learning rate (default: the method's)")
    run.add_argument("--seed", type=int, default=0, help="one seed, one result")
    run.add_argument(
        "--timed-steps", type=int, default=0, help="steps timed against dense, 0 for none"
    )
    run.set_defaults(command=_run)


def _add_setting(
    parser: argparse.ArgumentParser, rounds: int, steps: int | None, batch: int, out: str
) -> None:
    """Add what ``run`` and ``compare`` share."""
    parser.add_argument("--dataset", choices=_DATASETS, help="Fashion-MNIST, else the digits")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of the data set's files")
    parser.add_argument("--model", default="cnn", help="linear, mlp, cnn or PKG.MOD:NET")
    parser.add_argument("--norm", choices=("batch", "group"), help="normalisation of a named model")
    parser.add_argument("--clients", type=int, default=10, help="number of clients")
    parser.add_argument("--clients-per-round", type=int, help="cohort size (default: everyone)")
    parser.add_argument(
        "--partition", default="dirichlet:0.5", help="iid, dirichlet:ALPHA or shards:PER_CLIENT"
    )
    parser.add_argument("--rounds", type=int, default=rounds, help="rounds of training")
    parser.add_argument("--local-epochs", type=int, default=1, help="passes over a client's data")
    parser.add_argument(
        "--local-steps", type=int, default=steps, help="most steps of a client in a round"
    )
    parser.add_argument("--batch-size", type=int, default=batch, help="examples a step")
    parser.add_argument("--density", type=float, default=0.1, help="share of weights kept")
    parser.add_argument("--threads", type=int, help="threads of torch (default: all cores)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the method (compare: METHOD.KEY=VALUE)",
    )
    parser.add_argument("--out", default=out, metavar="DIR", help="where the files go")


def _names(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return parse


def _integers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of integers") from None


def _setting(args: argparse.Namespace, **more: Any) -> Any:
    """Turn arguments into a setting; without Fashion-MNIST the digits take its place, aloud."""
    experiment = importlib.import_module("sparsefl.fl.experiment")
    engine = importlib.import_module("sparsefl.fl.engine")
    dataset = getattr(args, "data", None) or args.dataset
    if dataset is None:
        dataset = _default_dataset(args.data_dir)
    return experiment.Setting(
        dataset=dataset,
        model=args.model,
        data_dir=args.data_dir,
        norm=args.norm,
        clients=args.clients,
        partition=args.partition,
        rounds=args.rounds,
        density=args.density,
        schedule=engine.Schedule(
            args.clients_per_round, args.batch_size, args.local_epochs, args.local_steps
        ),
        threads=args.threads,
        timed_steps=args.timed_steps,
        **more,
    )


def _default_dataset(data_dir: str | None) -> str:
    fashion_mnist = importlib.import_module("sparsefl.data.fashion_mnist")
    try:
        fashion_mnist.find_folder(data_dir)
    except FileNotFoundError as error:
        if data_dir is not None:
            raise
        print(f"sparsefl: the UCI digits take its place: {_one_line(error)}", file=sys.stderr)
        return "digits"
    return "fashion-mnist"


def _options(method: str, given: Sequence[tuple[str, str]]) -> Any:
    """Parse the options of a method, or of FedAvg for softmax regression."""
    load_method = importlib.import_module("sparsefl.fl.method").load_method
    return load_method("fedavg" if method == "linear" else method).parse_options(given)


def _pairs(texts: Sequence[str]) -> list[tuple[str, str]]:
    pairs = [text.partition("=") for text in texts]
    for (key, sign, _), text in zip(pairs, texts, strict=True):
        if not key or not sign:
            raise ValueError(f"--set takes KEY=VALUE, got {text!r}")
    return [(key, value) for key, _, value in pairs]


class _Progress:
    """A bar on a terminal that has tqdm, else a line a round."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._bars: dict[str, Any] = {}
        self._started = time.perf_counter()
        bar = sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None
        self._tqdm = importlib.import_module("tqdm").tqdm if bar else None

    def __call__(self, name: str, entry: Any) -> None:
        accuracy = "-" if entry.accuracy is None else f"{entry.accuracy:.3f}"
        if self._tqdm is None:
            seconds = time.perf_counter() - self._started
            print(
                f"[{seconds:5.0f} s] {name} round {entry.round}/{self._rounds}: accuracy "
                f"{accuracy}, up {entry.uplink_bytes} B, down {entry.downlink_bytes} B",
                file=sys.stderr,
                flush=True,
            )
            return
        if name not in self._bars:
            self._bars[name] = self._tqdm(total=self._rounds, desc=f"{name:12}", unit="round")
        bar = self._bars[name]
        bar.set_postfix_str(f"accuracy {accuracy}", refresh=False)
        bar.update(1)
        if entry.round == self._rounds:
            bar.close()


def _compare(args: argparse.Namespace) -> int:
    report = importlib.import_module("sparsefl.report")
    setting = _setting(
        args,
        dev_examples=_COMPARE_DEV,
        evaluate_every=_COMPARE_EVERY,
        memory=not args.no_memory,
    )
    by_method: dict[str, list[tuple[str, str]]] = {}
    for key, value in _pairs(args.set):
        method, dot, option = key.partition(".")
        if not dot or method not in args.methods:
            raise ValueError(f"--set takes METHOD.KEY=VALUE of a compared method, got {key!r}")
        by_method.setdefault(method, []).append((option, value))
    options = {method: _options(method, pairs) for method, pairs in by_method.items()}
    progress = _Progress(setting.rounds)
    results = report.compare(
        setting,
        args.methods,
        args.seeds,
        options,
        args.out,
        lambda method, seed, entry: progress(f"{method} seed {seed}", entry),
    )
    print(_describe(results[0]))
    print(report.table(results))
    written = [pathlib.Path(args.out) / "compare.json"]
    if not args.no_plots:
        try:
            written += report.draw(results, args.out)
        except ModuleNotFoundError as error:
            print(f"sparsefl: no plots: {error}", file=sys.stderr)
    print(f"\nWrote {', '.join(map(str, written))}")
    return 0


def _describe(result: Any) -> str:
    config = result.config
    work = f"{config['local_epochs']} local epoch{'s' * (config['local_epochs'] > 1)}"
    if config["local_steps"] is not None:
        work += f" of at most {config['local_steps']} steps"
    return (
        f"{config['data']}, {config['clients']} clients, "
        f"{config['clients_per_round'] or 'all'} take part, {config['rounds']} rounds, {work}, "
        f"batch {config['batch_size']}\n"
    )


def _run(args: argparse.Namespace) -> int:
    experiment = importlib.import_module("sparsefl.fl.experiment")
    setting = _setting(args)
    options = _options(args.method, _pairs(args.set))
    if args.lr is not None:
        options["lr"] = args.lr
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    progress = _Progress(setting.rounds)
    problem = experiment.load_problem(setting, args.seed)
    with (out / "log.jsonl").open("w") as log:

        def on_round(entry: Any) -> None:
            progress(args.method, entry)
            log.write(json.dumps(vars(entry)) + "\n")
            log.flush()

        result = experiment.play(args.method, setting, problem, args.seed, options, on_round)
    result.save(out)
    print(_describe(result))
    print(result.table())
    print(f"\nWrote {out / 'log.jsonl'}, {out / 'result.json'}")
    return 0


def _bench(arguments: list[str]) -> int:
    try:
        runner = importlib.import_module("sparsefl.bench.runner")
    except ModuleNotFoundError as error:
        print(f"sparsefl: error: the benchmarks are not installed: {error}", file=sys.stderr)
        return 2
    return int(runner.main(arguments) or 0)


def _info(args: argparse.Namespace) -> int:
    """Print versions and what is available; return 1 if a compiled module is missing."""
    lines = [("sparsefl", _version("sparsefl")), ("python", platform.python_version())]
    lines += [(name, _version(name)) for name in ("torch", "numpy", "matplotlib", "tqdm")]
    modules = {"operators": "sparsefl.ops", "codec": "sparsefl.codec"}
    states = {name: _compiled(module) for name, module in modules.items()}
    lines += list(states.items())
    lines += _runtime_lines()
    for dataset in _DATASETS:
        lines.append((dataset, _dataset_line(dataset)))
    width = max(len(name) for name, _ in lines)
    print("\n".join(f"{name:{width}}  {value}" for name, value in lines))
    return int(any(not state.startswith("compiled") for state in states.values()))


def _compiled(module: str) -> str:
    try:
        loaded = importlib.import_module(module)
    except ImportError as error:
        return f"not available: {_one_line(error)}"
    return f"compiled, {loaded.isa()}" if hasattr(loaded, "isa") else "compiled"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _runtime_lines() -> list[tuple[str, str]]:
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return [("cores", str(os.cpu_count()))]
    cuda = torch.version.cuda
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no device"
    return [
        ("cores", str(os.cpu_count())),
        ("threads", str(torch.get_num_threads())),
        ("cuda", f"{cuda}, {device}" if cuda else "torch is built without it"),
        ("methods", ", ".join(_METHODS)),
    ]


def _dataset_line(name: str) -> str:
    if name == "digits":
        return "shipped"
    try:
        return str(importlib.import_module("sparsefl.data.fashion_mnist").find_folder())
    except (ImportError, FileNotFoundError) as error:
        return f"not available: {_one_line(error)}"


if __name__ == "__main__":
    sys.exit(main())
