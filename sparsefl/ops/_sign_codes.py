"""Signs beside columns: what the linear kernels read of a sign layer, two bytes a kept weight.

Scores are numbers of four bytes, and the forward pass would have to look up where each lies. A code
holds a column and, in its highest bit, the sign of its weight. Codes in the order of both passes
are kept from step to step; a pass over the scores finds the few signs that have changed since and
turns these over. Every forward pass begins with it, so that nobody has to say that scores changed.
"""

import threading
from typing import Any

import torch
from torch import Tensor

from sparsefl.ops._library import LIBRARY, define
from sparsefl.ops._magnitude import Magnitude
from sparsefl.ops._plan import LinearPlan

# Columns that a code can name (csrc/cpu/view.h), and scores that share 16 words of signs
# (csrc/cpu/sign_codes.h).
_MOST_COLUMNS = 1 << 15
_CHUNK, _LANES = 512, 16

define(
    "sign_codes_update(Tensor scores, Tensor(a!) negative, Tensor(b!) stored, Tensor(c!) forward,"
    " Tensor place) -> int"
)


class SignCodes:
    """The codes that a sign layer keeps from step to step; copies of the layer start without.

    One call at a time has them: another thread's is told so by :meth:`acquire`, and reads scores.

    Attributes:
        tensors: What the scores were last seen to be, ``[16 * ceil(nnz / 512)]`` int32 of a bit
            each; codes in the scores' order, which is that of the transposed view, and in the
            forward view's, ``[nnz]`` int16 holding uint16 each; and where in the latter each score
            has its code, ``[nnz]`` int32.
        generation: Counts the changes of signs: while it stays, so do the codes.
    """

    def __init__(self) -> None:
        """Start without codes."""
        self._lock = threading.Lock()
        self._plan: LinearPlan | None = None
        self.tensors: tuple[Tensor, Tensor, Tensor, Tensor]
        self.generation = 0

    def serve(self, plan: LinearPlan, x: Tensor, magnitude: Magnitude) -> bool:
        """Tell whether codes serve a call: they have room for the columns, and nothing is traced.

        One sample is left to the scores, which its single pass reads in their own order.
        """
        if self._plan is not plan and not (x.device.type == "cpu" and _has_room(plan)):
            return False
        return (
            magnitude.each is None
            and x.shape[0] > 1
            and type(x) is Tensor
            and not torch.compiler.is_compiling()
        )

    def acquire(self, plan: LinearPlan) -> bool:
        """Take the codes of a plan, unless another call has them; :meth:`release` ends it.

        The first time, and after another plan, all signs are +1.

        Args:
            plan: What the scores lie on; :meth:`serve` is true of it.
        """
        if not self._lock.acquire(blocking=False):
            return False
        if self._plan is not plan:
            self._start(plan)
        return True

    def release(self) -> None:
        """Let other calls have the codes."""
        self._lock.release()

    def _start(self, plan: LinearPlan) -> None:
        position = plan.forward.position
        assert position is not None
        nnz = len(position)
        place = torch.empty_like(position)
        place[position.long()] = torch.arange(nnz, dtype=position.dtype)
        negative = position.new_zeros((nnz + _CHUNK - 1) // _CHUNK * _LANES)
        codes = plan.transposed.columns.clone(), plan.forward.columns.clone()
        self.tensors = (negative, *codes, place)
        self.generation += 1
        self._plan = plan

    def update(self, scores: Tensor) -> None:
        """Bring acquired codes up to the scores, ``[nnz]``, contiguous."""
        if torch.ops.sparsefl.sign_codes_update.default(scores, *self.tensors):
            self.generation += 1

    def __deepcopy__(self, memo: Any) -> "SignCodes":
        """Return one without codes."""
        return SignCodes()

    def __reduce__(self) -> tuple[type["SignCodes"], tuple[()]]:
        """Return what makes one without codes."""
        return SignCodes, ()


def _has_room(plan: LinearPlan) -> bool:
    widest = max(plan.forward.block, plan.transposed.block)
    return plan.forward.position is not None and widest <= _MOST_COLUMNS


@torch.library.register_fake("sparsefl::sign_codes_update", lib=LIBRARY)
def _(scores: Tensor, *others: Any) -> int:
    return 0
