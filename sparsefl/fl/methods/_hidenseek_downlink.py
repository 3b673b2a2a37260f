"""How HideNseek's scores travel down: their format, and the signs that it must keep."""

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

# Largest integer and block length of the codec's value formats with block scales (FORMAT.md).
_QUANTISED = {"int8": (127, 1024), "int4": (7, 64)}
# Of a block's step: rounds away from zero although the codec rounds its scales up by 2**-8 at most.
_JUST_A_STEP = 0.51


def wire_of(model: nn.Module, supports: Mapping[str, Support], options: Mapping[str, Any]) -> Wire:
    """Return how messages travel: scores down in their format, dense values as they are."""
    formats: dict[str, FormatName] = dict.fromkeys(supports, options["score_format"])
    return Wire(Schema.of(model), supports, downlink_format=formats)


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
