"""Learning rates of the clients, round by round: the one home of every schedule."""

import math
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

from sparsefl.fl.options import check_at_least

Kind: TypeAlias = Literal["constant", "exponential", "cosine", "step"]
KINDS: tuple[str, ...] = get_args(Kind)

# The options of a method whose clients have a learning rate; its defaults take them in.
DEFAULTS: Mapping[str, Any] = {
    "lr_schedule": "exponential",
    "lr_decay": 1.0,
    "lr_step": 10,
    "lr_warmup": 0,
    "lr_horizon": 0,
}
CHOICES: Mapping[str, tuple[str, ...]] = {"lr_schedule": KINDS}


def learning_rate(rate: float, options: Mapping[str, Any], round: int) -> float:
    """Compute the learning rate of a round t, counted from 1.

    ========================  =======================================================
    ``lr_schedule``           factor of ``rate``
    ========================  =======================================================
    ``constant``              1
    ``exponential``           ``lr_decay**(t - 1)``
    ``step``                  ``lr_decay**((t - 1) // lr_step)``
    ``cosine``                ``(1 + cos(pi * (t - 1) / lr_horizon)) / 2``
    ========================  =======================================================

    In the first ``lr_warmup`` rounds it is multiplied by ``t / (lr_warmup + 1)`` besides.

    Args:
        rate: The rate before any factor.
        options: A method's options, these among them. A ``lr_horizon`` of 0 is filled in with the
            rounds of the task by :func:`with_horizon`.
        round: t.

    Raises:
        ValueError: if a number is out of its range.
    """
    check_options(options)
    if options["lr_schedule"] == "cosine":
        check_at_least(options, {"lr_horizon": 1})
    kind, decay = options["lr_schedule"], options["lr_decay"]
    if kind == "exponential":
        rate *= decay ** (round - 1)
    elif kind == "step":
        rate *= decay ** ((round - 1) // options["lr_step"])
    elif kind == "cosine":
        horizon = options["lr_horizon"]
        rate *= (1 + math.cos(math.pi * min(round - 1, horizon) / horizon)) / 2
    return rate * min(1.0, round / (options["lr_warmup"] + 1))


def with_horizon(options: Mapping[str, Any], rounds: int) -> dict[str, Any]:
    """Fill in the horizon of a cosine schedule that has none: the rounds planned."""
    missing = options.get("lr_schedule") == "cosine" and not options["lr_horizon"]
    return {**options, **({"lr_horizon": rounds} if missing else {})}


def check_options(options: Mapping[str, Any]) -> None:
    """Check the schedule; a horizon of 0 is still to be filled in.

    Raises:
        ValueError: if an option is out of its range.
    """
    if options["lr_schedule"] not in KINDS:
        raise ValueError(
            f"lr_schedule must be one of {', '.join(KINDS)}, got {options['lr_schedule']!r}"
        )
    check_at_least(options, {"lr_decay": 0, "lr_step": 1, "lr_warmup": 0, "lr_horizon": 0})
