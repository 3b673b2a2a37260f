"""One spatial axis of a convolution: its taps, phases and extents."""

from typing import NamedTuple

_TILE = 4


class Axis(NamedTuple):
    """One spatial axis of a convolution, in pixels."""

    kernel: int
    stride: int
    padding: int | None
    dilation: int

    def pad_total(self) -> tuple[int, int]:
        """Return the padding before and in all; ``padding=None`` is torch's ``"same"``."""
        if self.padding is not None:
            return self.padding, 2 * self.padding
        total = self.dilation * (self.kernel - 1)
        return total // 2, total

    def output(self, size: int) -> int:
        """Return the output extent of an input of ``size`` pixels."""
        reach = self.dilation * (self.kernel - 1) + 1
        return (size + self.pad_total()[1] - reach) // self.stride + 1

    def phase(self, tap: int) -> int:
        """Return the residue of the input coordinates that a tap meets, modulo the stride."""
        return (tap * self.dilation - self.pad_total()[0]) % self.stride

    def window(self, *, transposed: bool) -> int:
        """Return the extent of the window that a tile of ``_TILE`` points needs."""
        reach = self.dilation * (self.kernel - 1)
        if transposed:
            return _TILE + reach // self.stride
        return (_TILE - 1) * self.stride + reach + 1
