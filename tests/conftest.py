"""What every test shares: poisoned uninitialised memory and the one tolerance rule."""

import os
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

# Else the layers of a test, which are small, would compute in dense torch, and which of them would
# depend on the machine. What a measured table chooses is tested in ops/test_dispatch.py.
os.environ.setdefault("SPARSEFL_LAYOUT", "density")
# As ``poisoned_memory`` does with what torch allocates.
os.environ.setdefault("SPARSEFL_MEMORY_POOL", "poison")
# Without it deterministic products on a CUDA device warn, which is an error in tests.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

from sparsefl.bench.tolerance import allowed_error, max_error
from sparsefl.ops import _cuda_dense, _cuda_gated, _cuda_packed_sign

# Where this is 1, the GPU kernels of which all tests with the mark ``verifies(kernel, ...)`` ran
# and passed are written into sparsefl/ops/verified.json, which makes them the default.
WRITE = "SPARSEFL_WRITE_VERIFIED"
# By test: the kernels that it verifies, and whether it ran and passed.
_OUTCOMES = pytest.StashKey[dict[str, tuple[tuple[str, ...], bool]]]()


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
    _set_deterministic(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    _set_deterministic(False)


def _set_deterministic(mode: bool) -> None:
    """As ``torch.use_deterministic_algorithms``, which imports the compiler: 6 s of CPU time."""
    torch._C._set_deterministic_algorithms(mode, warn_only=mode)


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
        """Asserts that the error of ``out`` is one that ``allowed_error`` allows.

        Args:
            out: What is tested, any shape and strides.
            ref64: The same computed in float64, the same shape.
            same_dtype_torch: The same computed by dense torch in the dtype of ``out``.
            what: Name of the result in the failure's message.
        """
        assert out.dtype == same_dtype_torch.dtype, f"{what}: dtype {out.dtype}"
        assert ref64.dtype == torch.float64, f"{what}: the reference is {ref64.dtype}"
        shapes = tuple(out.shape), tuple(ref64.shape)
        assert shapes[0] == shapes[1], f"{what}: shape {shapes[0]}, not {shapes[1]}"
        error, allowed = max_error(out, ref64), allowed_error(ref64, same_dtype_torch)
        # Written so that a NaN in the output fails.
        assert error <= allowed, f"{what}: error {error:.3g}, allowed {allowed:.3g}"

    return check


@pytest.fixture
def cuda_functions_on_cpu() -> Iterator[None]:
    """Gives torch's dispatcher the CUDA implementations that are plain torch for CPU tensors."""
    library = torch.library.Library("sparsefl", "IMPL")
    functions = {
        "dense_weight": _cuda_dense.dense_weight,
        "kept_gradient": _cuda_dense.kept_gradient,
        "transpose": _cuda_dense.transpose,
        "gated_update": _cuda_gated.gated_update,
        "packed_sign_linear": _cuda_packed_sign.refuse,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the CPU's are overridden, as is meant
        for name, function in functions.items():
            library.impl(name, function, "CPU", allow_override=True)
    yield
    library._destroy()


@pytest.fixture
def moved_to_fake_cuda() -> Iterator[Callable[[nn.Module], nn.Module]]:
    """Makes every new tensor fake, and returns what moves a model to the fake device "cuda:0".

    An operation that needs data, waits for them, or mixes devices raises. ``Module.to`` would swap
    tensors that others refer to.
    """
    deterministic = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = False
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        yield _moved
    torch.utils.deterministic.fill_uninitialized_memory = deterministic


def _moved(model: nn.Module) -> nn.Module:
    for layer in model.modules():
        for name, parameter in layer._parameters.items():
            if parameter is not None:
                fake = torch.empty_like(parameter, device="cuda:0")
                layer._parameters[name] = nn.Parameter(fake, parameter.requires_grad)
        for name, buffer in layer._buffers.items():
            if buffer is not None:
                layer._buffers[name] = torch.empty_like(buffer, device="cuda:0")
        if hasattr(layer, "_move_plan"):
            layer._move_plan()
    return model


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """Notes of each test that verifies kernels whether it ran and passed, set-up included."""
    report = yield
    names = tuple(name for mark in item.iter_markers("verifies") for name in mark.args)
    if names:
        held = item.config.stash.setdefault(_OUTCOMES, {})
        _, good = held.get(item.nodeid, (names, True))
        held[item.nodeid] = names, good and report.outcome == "passed"
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Writes the list of verified kernels where that is asked for."""
    outcomes = session.config.stash.get(_OUTCOMES, {})
    if os.environ.get(WRITE) == "1" and outcomes and torch.cuda.is_available():
        from sparsefl.bench import verified

        verified.write(verified.Outcome(*told) for told in outcomes.values())
