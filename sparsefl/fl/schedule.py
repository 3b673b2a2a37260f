"""How much every client does in a round, and which clients do."""

from dataclasses import dataclass

from sparsefl.fl.options import check_count, plain
from sparsefl.fl.sampling import RULES, Rule

_COUNTS = ("batch_size", "local_epochs")
_OPTIONAL = ("local_steps", "clients_per_round")


@dataclass(frozen=True)
class Schedule:
    """How much every client does.

    Attributes:
        clients_per_round: Cohort size; ``None`` is everyone.
        batch_size: Examples a step.
        local_epochs: Passes over the client's data in one round.
        local_steps: Most steps in one round, or ``None``.
        sampling: How a cohort is drawn: "uniform", by "examples", or "poisson" (see
            :func:`sparsefl.fl.sampling.draw_cohort`).
    """

    clients_per_round: int | None = None
    batch_size: int = 32
    local_epochs: int = 1
    local_steps: int | None = None
    sampling: Rule = "uniform"

    def __post_init__(self) -> None:
        """Hold counts as Python's own numbers.

        Raises:
            ValueError: if there is no such sampling.
        """
        if self.sampling not in RULES:
            raise ValueError(f"sampling must be one of {', '.join(RULES)}, got {self.sampling!r}")
        for name in (*_COUNTS, *_OPTIONAL):
            object.__setattr__(self, name, plain(getattr(self, name)))

    def check(self) -> None:
        """Refuse counts that are none.

        Raises:
            TypeError: if one is no whole number.
            ValueError: if one is below 1.
        """
        for name in _COUNTS:
            check_count(name, getattr(self, name))
        for name in _OPTIONAL:
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
