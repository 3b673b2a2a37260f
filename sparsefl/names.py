"""Names that package and command line share, without torch, so that ``--help`` is quick."""

from typing import Literal, TypeAlias, get_args

METHODS = (
    "fedavg",
    "fedprox",
    "scaffold",
    "fedpm",
    "lotteryfl",
    "fedpt",
    "fedtiny",
    "hidenseek",
    "adp",
)
# Softmax regression under FedAvg: the row of a comparison below which a method has shown nothing.
LINEAR = "linear"
ROWS = (LINEAR, *METHODS)
# The rows of a comparison that names none: what `make demo` has minutes for.
COMPARED = (LINEAR, "fedavg", "fedpt", "hidenseek")

# What a run leaves in its folder, and a comparison in its own.
MODEL = "model.pt"
RESULT, LOG, CHECKPOINT, COMPARISON = "result.json", "log.jsonl", "checkpoint", "compare.json"

# How `sparsefl profile` chooses weights.
MaskRule: TypeAlias = Literal["synflow", "erdos_renyi", "random", "magnitude", "own"]
MASK_RULES: tuple[str, ...] = get_args(MaskRule)


def run_folder(row: str, seed: int) -> str:
    """Return the folder of one run within that of its comparison."""
    return f"{row}-{seed}"


def seed_folder(seed: int) -> str:
    """Return the folder of one seed's run within that of several."""
    return f"seed-{seed}"
