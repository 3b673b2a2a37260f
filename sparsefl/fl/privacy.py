"""Central differential privacy of clients: DP-FedAvg, for every method that sends changes.

McMahan, Ramage, Talwar, Zhang, "Learning differentially private recurrent language models", ICLR
2018, arXiv 1710.06963, algorithm 1 with flat clipping, equal weights and a fixed denominator; in
partially trainable networks (arXiv 2110.03450) over what is trained alone.

    client    D_k = y_k - y_t,  sent as D_k min(1, C / ||D_k||_2)                    -> clipped
    server    D = (sum_k D_k min(1, C / ||D_k||_2) + sigma C N(0, I)) / m            -> noisy_mean
              m = clients_per_round, the expected cohort; a client that is lost counts as 0

Clients are not trusted to clip: the server measures every message as it was decoded and scales down
what is longer than C, which a sound client's never is by more than its rounding.

What the accountant assumes, by the schedule's sampling:

- "poisson": each client takes part by a coin of its own, ``q = m / clients``; neighbours differ in
  one client more or less; sensitivity C.
- "uniform": m of all clients without replacement; neighbours differ in one client's data, replaced
  by any others; sensitivity 2 C. "examples" has no accountant and is refused.

Options of the methods that offer it:

    dp_clip       C, above 0: on; 0: off
    dp_noise      sigma; 0 clips alone, for ablations: no guarantee, and no epsilon
    dp_delta      delta of the reported epsilon
    dp_entropy    "seed": noise and cohorts come from the run's seed, so that a run repeats bit for
                  bit. Whoever knows the seed can subtract the noise, and clients may know it: **for
                  experiments only**. "fresh": from the operating system; no two runs are alike.

Covered is what the server publishes of its model. Not covered are the ledger's losses, counts and
bytes, the number of clients, and options that were tuned on the clients' data. Noise is drawn in
floating point by numpy's Philox generator, neither a defence against attacks on low-order bits
(Mironov, CCS 2012) nor cryptographic. Tensors that travel but are not trained, such as the
statistics of batch norm, would be noise alone, or unprotected: such models are refused.
"""

import functools
import importlib.util
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sparsefl.codec import Dense, Regenerated, Signs, Sparse, SupportOnly, Update
from sparsefl.fl.options import check_at_least
from sparsefl.fl.pool import Mean
from sparsefl.fl.sampling import Rule
from sparsefl.random import generator

Entropy = Literal["seed", "fresh"]
DEFAULTS: Mapping[str, Any] = {
    "dp_clip": 0.0,
    "dp_noise": 0.0,
    "dp_delta": 1e-5,
    "dp_entropy": "seed",
}
CHOICES: Mapping[str, tuple[str, ...]] = {"dp_entropy": ("seed", "fresh")}
# Rules of sampling that the accountant has a theorem for.
_ACCOUNTED = ("uniform", "poisson")


def check_options(options: Mapping[str, Any]) -> None:
    """Check the options of privacy.

    Raises:
        ModuleNotFoundError: if there is noise to account for, and dp-accounting is not installed.
        ValueError: if one is out of range, or there is noise without a bound.
    """
    check_at_least(options, {"dp_clip": 0, "dp_noise": 0})
    if not 0 < options["dp_delta"] < 1:
        raise ValueError(f"dp_delta must lie between 0 and 1, got {options['dp_delta']}")
    if options["dp_noise"] > 0 and options["dp_clip"] == 0:
        raise ValueError("dp_noise needs dp_clip, the bound that it is a multiple of")
    if options["dp_noise"] > 0 and importlib.util.find_spec("dp_accounting") is None:
        raise ModuleNotFoundError(
            "dp_noise needs dp-accounting, which says what epsilon it is worth: "
            "pip install 'sparsefl[dp]'"
        )


def check_travelling(
    options: Mapping[str, Any], travelling: Iterable[str], trained: Iterable[str]
) -> None:
    """Refuse a model of which something travels that is not trained, where privacy is on.

    Raises:
        ValueError: if it has any; they are named.
    """
    known = set(trained)
    odd = [name for name in travelling if name not in known]
    if options["dp_clip"] > 0 and odd:
        more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
        raise ValueError(
            f"dp_clip covers what is trained, but {', '.join(odd[:3])}{more} would travel beside "
            "it: take a model without buffers and fixed parameters, such as norm='group'"
        )


def scale_to(norm: float, clip: float) -> float:
    """Return ``min(1, C / norm)``."""
    return 1.0 if norm <= clip else clip / norm


def clipped(change: Mapping[str, Tensor], clip: float) -> dict[str, Tensor]:
    """Scale a change to an L2 norm of at most ``clip``, over all its tensors together.

    Args:
        change: ``D_k`` by name, floating-point.
        clip: C; 0 leaves it as it is.
    """
    if clip == 0:
        return dict(change)
    squares = sum(float(value.double().square().sum()) for value in change.values())
    factor = scale_to(math.sqrt(squares), clip)
    return {name: value * factor for name, value in change.items()}


def norm_of(update: Update) -> float:
    """Return the L2 norm of all that an update would add, float64."""
    squares = 0.0
    for entry in update.values():
        if isinstance(entry, Dense | Sparse):
            squares += float(np.square(np.asarray(entry.values, np.float64)).sum())
        elif isinstance(entry, Signs):
            squares += float(entry.scale) ** 2 * entry.support.nnz
        elif not isinstance(entry, Regenerated | SupportOnly):
            raise ValueError(f"privacy has no norm of {type(entry).__name__}")
    return math.sqrt(squares)


@dataclass(frozen=True)
class Privacy:
    """The mechanism of one run.

    Attributes:
        clip: C.
        noise: sigma; the noise's deviation is ``sigma C`` on the sum.
        delta: Of the reported epsilon.
        entropy: Where noise and cohorts come from.
        sampling: How cohorts are drawn.
        clients: Clients that may be drawn, public.
        cohort: m, how many are drawn in a round, on average.
    """

    clip: float
    noise: float
    delta: float
    entropy: Entropy
    sampling: Rule
    clients: int
    cohort: int

    def __post_init__(self) -> None:
        """Raises: ValueError: if the accountant has no theorem for the sampling."""
        if self.sampling not in _ACCOUNTED:
            raise ValueError(
                f"dp_clip needs sampling {' or '.join(_ACCOUNTED)}, got {self.sampling!r}"
            )

    @classmethod
    def of(
        cls, options: Mapping[str, Any], sampling: Rule, clients: int, cohort: int
    ) -> "Privacy | None":
        """Read a method's options; ``None`` where privacy is off, or the method offers none."""
        if not options.get("dp_clip"):
            return None
        own = {key.removeprefix("dp_"): options[key] for key in DEFAULTS}
        return cls(**own, sampling=sampling, clients=clients, cohort=cohort)

    def draws(self, seed: int, name: str) -> np.random.Generator:
        """Open the generator of a named stream: of the seed, or fresh."""
        if self.entropy == "seed":
            return generator(seed, name)
        return np.random.Generator(np.random.Philox(np.random.SeedSequence()))

    def weight(self, update: Update) -> float:
        """Return ``min(1, C / ||D_k||)`` of a message as it was decoded.

        Raises:
            ValueError: if its norm is not finite.
        """
        norm = norm_of(update)
        if not math.isfinite(norm):
            raise ValueError(f"the update has the norm {norm}")
        return scale_to(norm, self.clip)

    def noisy_mean(self, sums: Mapping[str, Tensor], clients: int, seed: int, round: int) -> Mean:
        """Return ``(sum + sigma C N(0, I)) / m``.

        Args:
            sums: ``sum_k D_k``, clipped, of each tensor, float64.
            clients: Updates in them.
            seed: Of the run.
            round: Number of the round.
        """
        draws, deviation = self.draws(seed, f"noise of round {round}"), self.noise * self.clip
        tensors = {}
        for name, value in sums.items():
            noise = torch.from_numpy(draws.standard_normal(tuple(value.shape)))
            tensors[name] = (value + deviation * noise) / self.cohort
        return Mean(tensors, clients)

    def epsilon(self, rounds: int) -> float | None:
        """Return the epsilon of that many rounds at ``delta``; ``None`` without noise."""
        if self.noise == 0:
            return None
        return epsilon(self.noise, self.delta, self.sampling, self.clients, self.cohort, rounds)


@functools.lru_cache
def epsilon(
    noise: float, delta: float, sampling: Rule, clients: int, cohort: int, rounds: int
) -> float:
    """Return the epsilon of a run, by Renyi accounting.

    Args:
        noise: sigma, the noise's deviation over C.
        delta: Of (epsilon, delta).
        sampling: "poisson": neighbours by one client more or less. "uniform": by one client
            replaced, whose sensitivity is 2 C, so that sigma counts half.
        clients: Clients that are drawn from.
        cohort: Clients of a round; with "poisson" on average.
        rounds: Rounds played.

    Raises:
        ModuleNotFoundError: if dp-accounting is not installed.

    Source: Mironov, Talwar, Zhang 2019, arXiv 1908.10530 (Poisson sampling); Wang, Balle,
    Kasiviswanathan 2019, arXiv 1808.00087 (without replacement), both as in ``dp_accounting``.
    """
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    relation = dp_accounting.NeighboringRelation
    if sampling == "poisson":
        accountant = RdpAccountant(neighboring_relation=relation.ADD_OR_REMOVE_ONE)
        event = dp_accounting.PoissonSampledDpEvent(
            cohort / clients, dp_accounting.GaussianDpEvent(noise)
        )
    else:
        accountant = RdpAccountant(neighboring_relation=relation.REPLACE_ONE)
        event = dp_accounting.SampledWithoutReplacementDpEvent(
            clients, cohort, dp_accounting.GaussianDpEvent(noise / 2)
        )
    absl = logging.getLogger("absl")
    level = absl.level
    # Each order of Renyi that does not converge would be a warning; it is only left out.
    absl.setLevel(logging.ERROR)
    try:
        return float(accountant.compose(event, rounds).get_epsilon(delta))
    finally:
        absl.setLevel(level)
