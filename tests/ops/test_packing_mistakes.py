"""What the packing ops refuse, by the argument's name."""

import pytest
import torch

from sparsefl import Support, codec, ops
from sparsefl.ops import Arena, BitmapPlan


def whole_plan(n):
    return BitmapPlan.of(Support.random((n,), 1.0))


def add_own_elements(x):
    """Adds elements to others of the same tensor, which a kernel may have changed already."""
    plan = BitmapPlan.of(Support.random((x.numel(),), 0.5))
    return ops.bitmap_add_(x, plan, x[: plan.nnz])


MISTAKES = {
    "packed": (
        lambda: codec.Signs.from_packed(Support.random((9,), 1.0), torch.zeros(3).byte()),
        ValueError,
        r"packed must be \[2\]",
    ),
    "double": (lambda: ops.sign_pack(torch.zeros(3).double()), TypeError, "x: expected a float32"),
    "no tensor": (lambda: ops.top_k([1.0], 1), TypeError, "got list"),
    "k": (lambda: ops.top_k(torch.zeros(3), 4), ValueError, "k: expected 0 to 3"),
    "k of no integer": (lambda: ops.top_k(torch.zeros(3), 1.5), TypeError, "k: expected integers"),
    "arena": (
        lambda: ops.sign_pack(torch.zeros(3), Arena((2,))),
        ValueError,
        "expected 2 elements",
    ),
    "no tensors": (lambda: Arena(()), ValueError, "sizes: expected those of one tensor"),
    "bits": (
        lambda: ops.sign_unpack(torch.zeros(3, dtype=torch.uint8), 8),
        ValueError,
        r"bits: expected \[1\], got \[3\]",
    ),
    "tail": (
        lambda: ops.sign_unpack(torch.full((1,), 128, dtype=torch.uint8), 7),
        ValueError,
        "bits: expected zeros past",
    ),
    "scale": (
        lambda: ops.sign_unpack(torch.zeros(1, dtype=torch.uint8), 8, 1e39),
        ValueError,
        "scale: expected",
    ),
    "flag": (lambda: ops.sign_pack(torch.zeros(3), found_nan=torch.zeros(1)), ValueError, "int32"),
    "values": (
        lambda: ops.bitmap_scatter(torch.zeros(2), whole_plan(9)),
        ValueError,
        r"values: expected \[9\]",
    ),
    "device": (
        lambda: ops.bitmap_gather(torch.zeros(9, device="meta"), whole_plan(9)),
        ValueError,
        "expected the plan's device cpu",
    ),
    "model": (
        lambda: ops.bitmap_add_(
            torch.zeros(3, 3).t(), BitmapPlan.of(Support.random((9,), 0.0)), torch.zeros(0)
        ),
        ValueError,
        "model: expected a contiguous",
    ),
    "overlap": (lambda: add_own_elements(torch.randn(9)), ValueError, "values: .* overlaps"),
    "weight": (
        lambda: ops.bitmap_add_(torch.zeros(9), whole_plan(9), torch.zeros(9), "1"),
        TypeError,
        "weight: expected a number",
    ),
    "no support": (
        lambda: BitmapPlan.of([torch.ones(3)]),
        TypeError,
        "supports: expected Supports",
    ),
    "plan of gather": (
        lambda: ops.bitmap_gather(torch.zeros(9), Support.random((9,), 1.0)),
        TypeError,
        "plan: expected a BitmapPlan",
    ),
    "plan of add": (
        lambda: ops.bitmap_add_(torch.zeros(9), None, torch.zeros(9)),
        TypeError,
        "plan: expected a BitmapPlan",
    ),
    "shapes": (
        lambda: whole_plan(9).supports([(9,), (1,)]),
        ValueError,
        "shapes: expected those of 1 tensors, got 2",
    ),
    "no arena": (
        lambda: ops.sign_pack(torch.zeros(3), (3,)),
        TypeError,
        "arena: expected an Arena",
    ),
    "sizes": (lambda: Arena((1.5,)), TypeError, "sizes: expected integers, got 1.5"),
    "size": (
        lambda: ops.sign_unpack(torch.zeros(1, dtype=torch.uint8), 7.5),
        TypeError,
        "size: expected integers, got 7.5",
    ),
    "layout": (
        lambda: ops.sign_pack(torch.eye(3).to_sparse()),
        TypeError,
        "x: expected a dense tensor, got torch.sparse_coo",
    ),
    "positions": (
        lambda: ops.majority_vote(torch.zeros(2, 1, dtype=torch.uint8), 8.0),
        TypeError,
        "n: expected integers, got 8.0",
    ),
    "clients": (
        lambda: ops.majority_vote(torch.zeros(0, 1, dtype=torch.uint8), 8),
        ValueError,
        "1 to 65535 clients",
    ),
    "ballots": (
        lambda: ops.majority_vote(torch.zeros(2, 1, dtype=torch.uint8), 9),
        ValueError,
        r"expected \[clients, 2\]",
    ),
    "ties": (
        lambda: ops.majority_vote(torch.zeros(2, 1, dtype=torch.uint8), 8, "negative"),
        ValueError,
        "ties: expected",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
