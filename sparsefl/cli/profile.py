"""``sparsefl profile``: whether, and in which layers, sparsity pays for a network."""

import argparse
import dataclasses
import importlib
import importlib.util
import json
import pathlib
import sys
from typing import Any

from sparsefl.defaults import DENSITIES, DENSITY, PROFILE_S
from sparsefl.names import MASK_RULES

_CLASSES = 10


def add_to(commands: Any) -> None:
    """Declare the command."""
    profile = commands.add_parser(
        "profile",
        help="does sparsity pay for this network: layer by layer, within half a minute",
        description="Time a local step of a network dense, sparse, and with only those layers "
        "sparse that pay; print times, memory, bytes and a verdict for every layer.",
    )
    profile.add_argument(
        "network", metavar="NET", help="PKG.MOD:NET, called without arguments, or a model's name"
    )
    profile.add_argument(
        "--input-shape", type=_sizes, metavar="C,H,W", help="shape of one sample, for random inputs"
    )
    profile.add_argument(
        "--example",
        metavar="PKG.MOD:FUNCTION",
        help="other inputs: called without arguments, gives a batch, a tensor or the tuple of "
        "forward's arguments",
    )
    profile.add_argument(
        "--classes",
        type=int,
        default=_CLASSES,
        metavar="N",
        help=f"outputs of a model named by the package ({_CLASSES})",
    )
    profile.add_argument(
        "--density", type=float, default=DENSITY, help=f"share of weights kept ({DENSITY:g})"
    )
    profile.add_argument("--batch-size", type=int, default=32, metavar="N", help="samples (32)")
    profile.add_argument(
        "--layer", choices=("sparse", "sign"), default="sparse", help="real weights, or signs"
    )
    profile.add_argument(
        "--masks",
        choices=MASK_RULES,
        help="which weights are kept; own: the network's zeros and pruning masks (synflow, else "
        "erdos_renyi)",
    )
    profile.add_argument("--optimizer", choices=("sgd", "adam"), default="sgd", help="(sgd)")
    profile.add_argument("--threads", type=int, metavar="N", help="threads of torch (all cores)")
    profile.add_argument(
        "--seconds",
        type=float,
        default=PROFILE_S,
        metavar="S",
        help=f"time to take ({PROFILE_S:g}); with --crossover twice",
    )
    profile.add_argument("--seed", type=int, default=0, metavar="N", help="of masks and inputs (0)")
    profile.add_argument("--json", metavar="FILE", help="write everything as JSON, too")
    _add_crossover(profile)
    profile.set_defaults(command=_profile)


def _add_crossover(profile: Any) -> None:
    profile.add_argument(
        "--crossover",
        metavar="PLOT",
        help="then time each layer alone at several densities of random masks, print from which on "
        f"it is faster dense, and draw that (.png, .svg, .pdf); takes as long again ({PROFILE_S:g} "
        "s; both within a minute)",
    )
    profile.add_argument(
        "--densities",
        type=_densities,
        metavar="D,D,...",
        help=f"of --crossover, two or more ({','.join(f'{d:g}' for d in DENSITIES)})",
    )


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of sizes: 1,28,28 for example"
        ) from None


def _densities(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of densities: 0.01,0.1,0.5 for example"
        ) from None


def _profile(args: argparse.Namespace) -> int:
    if (args.input_shape is None) == (args.example is None):
        raise ValueError(
            "give either --input-shape, one sample's (1,28,28 for example), or --example "
            "PKG.MOD:FUNCTION"
        )
    densities = _checked_densities(args)
    asked = {
        "model": _network(args.network, args.input_shape, args.classes),
        "input_shape": args.input_shape,
        "example_input": None if args.example is None else _call(args.example),
        "batch_size": args.batch_size,
        "layer": args.layer,
        "threads": args.threads,
        "seconds": args.seconds,
        "seed": args.seed,
    }
    one_density = {"density": args.density, "masks": args.masks, "optimizer": args.optimizer}
    profile = _measured("profile", args.network, asked | one_density)
    print(profile.table())
    found = profile.to_dict()
    if args.crossover is not None:
        crossover = _measured("profile_crossover", args.network, asked | {"densities": densities})
        print(f"\n{crossover.table()}")
        crossover.plot(args.crossover)
        print(f"\nWrote {args.crossover}")
        found["crossover"] = crossover.to_dict()
    if args.json is not None:
        pathlib.Path(args.json).write_text(json.dumps(found, indent=2) + "\n")
        print(f"\nWrote {args.json}")
    return 0


def _checked_densities(args: argparse.Namespace) -> tuple[float, ...]:
    """Refuse now what would end half a minute of measuring without a picture."""
    if args.crossover is None:
        if args.densities is not None:
            raise ValueError("--densities needs --crossover PLOT, the picture to draw")
        return DENSITIES
    importlib.import_module("sparsefl.profiling.crossover_plot").check(pathlib.Path(args.crossover))
    arguments = importlib.import_module("sparsefl.profiling.arguments")
    densities: tuple[float, ...] = arguments.ascending(args.densities or DENSITIES)
    return densities


def _measured(entry: str, network: str, asked: dict[str, Any]) -> Any:
    """Call an entry of sparsefl.profiling under a bar; the network goes by the user's name."""
    bar = _Bar()
    try:
        found = getattr(importlib.import_module("sparsefl.profiling"), entry)(
            **asked, on_progress=bar.show
        )
    finally:
        bar.close()
    return dataclasses.replace(found, settings={**found.settings, "model": network})


def _network(spec: str, input_shape: tuple[int, ...] | None, classes: int) -> Any:
    """Build the user's network, or one of the package's models for images of this shape."""
    if ":" in spec:
        return _call(spec)
    models = importlib.import_module("sparsefl.models")
    if spec not in models.NAMES:
        raise ValueError(
            f"no network {spec!r}: give PKG.MOD:NET, found from the current folder, or one of "
            f"{', '.join(models.NAMES)}"
        )
    if input_shape is None:
        raise ValueError(f"{spec} needs --input-shape")
    return models.build(spec, input_shape, classes)


def _call(spec: str) -> Any:
    return importlib.import_module("sparsefl.fl.loading").call(spec)


class _Bar:
    """On stderr: a bar on a terminal that has tqdm, else a line a stage."""

    def __init__(self) -> None:
        self._stage = ""
        self._tqdm = None
        if sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None:
            form = "{desc:13}{percentage:3.0f}%|{bar}| {elapsed}"
            self._tqdm = importlib.import_module("tqdm").tqdm(
                total=1.0, bar_format=form, leave=False
            )

    def show(self, stage: str, share: float) -> None:
        """Show the stage and the share of the time that has passed."""
        if self._tqdm is not None:
            if stage != self._stage:
                self._tqdm.set_description_str(stage, refresh=False)
            self._tqdm.update(share - self._tqdm.n)
        elif stage != self._stage:
            print(f"[{share:4.0%}] {stage}", file=sys.stderr, flush=True)
        self._stage = stage

    def close(self) -> None:
        """Take the bar away."""
        if self._tqdm is not None:
            self._tqdm.close()
