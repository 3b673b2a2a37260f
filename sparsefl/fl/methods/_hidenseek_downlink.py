"""How HideNseek's scores travel down: the formats, and the signs that these must keep."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from sparsefl.codec import Entry, Schema, Signs, Sparse
from sparsefl.codec.plan import FormatName
from sparsefl.fl.method import Wire
from sparsefl.fl.methods._hidenseek_rules import RULES, Scores, signs_of
from sparsefl.support import Support

SCORE_FORMATS = ("fp32", "bf16", "int8", "int4")
NO_DELTAS = "none"
SCORE_DELTAS = (NO_DELTAS, "int8", "int4", "ternary")

# Names in messages of changes, and of what they are changes of; no module of a model is called so.
_APART = "downlink:"
CHANGE, OF = f"{_APART}change/", f"{_APART}of"

# Largest integer and block length of the codec's value formats with block scales (FORMAT.md).
_QUANTISED = {"int8": (127, 1024), "int4": (7, 64)}
# Of a block's step: rounds away from zero although the codec rounds its scales up by 2**-8 at most.
_JUST_A_STEP = 0.51


def wire_of(model: nn.Module, supports: Mapping[str, Support], options: Mapping[str, Any]) -> Wire:
    """Return how messages travel: scores down in their format, dense values as they are."""
    schema = Schema.of(model)
    formats: dict[str, FormatName] = dict.fromkeys(supports, options["score_format"])
    if options["score_deltas"] != NO_DELTAS:
        sizes = {f"{CHANGE}{name}": support.nnz for name, support in supports.items()}
        specs = {name: ((size,), "float32") for name, size in sizes.items()}
        schema = Schema({**schema, **specs, OF: ((1,), "float32")})
        formats |= dict.fromkeys(sizes, options["score_deltas"])
    return Wire(schema, supports, downlink_format=formats)


def without_changes(schema: Schema) -> Schema:
    """Return the schema of the model alone, of what whole broadcasts have."""
    return Schema({name: spec for name, spec in schema.items() if not name.startswith(_APART)})


def check_deltas(options: Mapping[str, Any]) -> None:
    """Raise ValueError where no scores travel that could travel as changes."""
    if options["score_deltas"] != NO_DELTAS and RULES[options["rule"]].broadcasts_signs:
        raise ValueError(
            f"score_deltas must be {NO_DELTAS!r} with rule {options['rule']!r}, which broadcasts "
            f"signs, got {options['score_deltas']!r}"
        )


def score_entry(support: Support, scores: Scores, options: Mapping[str, Any]) -> Entry:
    """Return what is broadcast of one layer: scores, or signs where the rule broadcasts these."""
    if RULES[options["rule"]].broadcasts_signs:
        return Signs(support, signs_of(scores), options["tau"])
    return Sparse(support, keep_signs(scores, options["score_format"]))


def keep_signs(scores: Scores, value_format: str) -> Scores:
    """Move small negative scores so far from zero that quantising them keeps their sign.

    Block-scaled integers round a small score to 0, whose sign is +1: of normal scores 7 % would
    flip in 4 bits. A negative score above half a step becomes minus half a step and a little, so
    that it is sent as -1; a positive one may become 0. The step is bounded by the largest score
    among the neighbouring blocks, wherever the codec's blocks begin.

    Args:
        scores: ``[nnz]`` float32, row-major.
        value_format: The format that they are sent in.
    """
    if value_format not in _QUANTISED or scores.size == 0:
        return scores
    largest, block = _QUANTISED[value_format]
    padded = np.zeros(-(-scores.size // block) * block, np.float32)
    padded[: scores.size] = np.abs(scores)
    top = padded.reshape(-1, block).max(axis=1)
    around = np.maximum(top, np.maximum(np.append(top[1:], 0), np.append(0, top[:-1])))
    least = np.repeat(around / largest * _JUST_A_STEP, block)[: scores.size].astype(np.float32)
    return np.where((scores < 0) & (scores > -least), -least, scores).astype(np.float32)
