"""What every test shares: poisoned uninitialised memory and the one tolerance rule."""

from collections.abc import Callable, Iterator

import pytest
import torch

# An error of a few units in the last place is allowed even where dense torch happens to be exact.
ROUNDING_UNITS = 4


def pytest_report_header() -> str:
    """Names what the kernels run on, so that a log says which instruction set failed."""
    try:
        from sparsefl.ops import isa

        running = isa()
    except ImportError as error:
        running = f"none ({error})"
    return f"sparsefl: isa {running}, torch {torch.__version__}, {torch.get_num_threads()} threads"


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fills ``torch.empty`` with NaN, so that a kernel that leaves an element unwritten is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Starts every test from the same random numbers, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def assert_matches() -> Callable[..., None]:
    """Returns the check of a result by the error that dense torch makes in the same dtype."""

    def check(
        out: torch.Tensor, ref64: torch.Tensor, same_dtype_torch: torch.Tensor, what: str = "result"
    ) -> None:
        """Asserts ``|out - ref64| <= 2 * |same_dtype_torch - ref64| + k * eps * max|ref64|``.

        Args:
            out: What is tested, any shape and strides.
            ref64: The same computed in float64, the same shape.
            same_dtype_torch: The same computed by dense torch in the dtype of ``out``.
            what: Name of the result in the failure's message.

        Source: the tolerance rule of flash-attention's tests.
        """
        assert out.dtype == same_dtype_torch.dtype, f"{what}: dtype {out.dtype}"
        assert ref64.dtype == torch.float64, f"{what}: the reference is {ref64.dtype}"
        assert out.shape == ref64.shape, (
            f"{what}: shape {tuple(out.shape)}, not {tuple(ref64.shape)}"
        )
        if out.numel() == 0:
            return
        error = (out.double() - ref64).abs().max().item()
        torch_error = (same_dtype_torch.double() - ref64).abs().max().item()
        units = ROUNDING_UNITS * torch.finfo(out.dtype).eps * ref64.abs().max().item()
        # Written so that a NaN in the output fails.
        assert error <= 2 * torch_error + units, (
            f"{what}: error {error:.3g}, dense torch {torch_error:.3g}, rounding {units:.3g}"
        )

    return check
