"""Clients on another device: all of a step lies there, and models come back."""

import contextlib

import pytest
import torch
from torch import nn

from sparsefl.fl import METHODS, Schedule, Task, load_method
from sparsefl.fl import device as devices
from sparsefl.fl.engine import Federation

CUDA = torch.device("cuda:0")
# The norm's kernels ask for a guard of the device.
GUARDED = pytest.mark.skipif(
    not torch.backends.cuda.is_built(), reason="torch is built without CUDA, even for fake tensors"
)
MORE = {"hidenseek": {"iterations": 10}, "fedprox": {"mu": 0.1}}


def gateable() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3)),
    )


def federation_of(method: str, toy, clients, device: torch.device = devices.HOST) -> Federation:
    chosen = load_method(method)
    options = chosen.with_defaults(MORE.get(method, {}))
    factory = gateable if method == "adp" else toy.cnn
    example = torch.zeros(1, *toy.pixels)
    task = Task(factory, example, 0, 0.5, options, device=device)
    trains, devs = zip(*clients, strict=True)
    return Federation(chosen, task, trains, Schedule(batch_size=16), devs=devs)


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=GUARDED if name == "adp" else ()) for name in METHODS]
)
def test_a_step_mixes_no_devices(method, toy, clients, request):
    """Forward, and the optimizer's step on gradients of the device: fake tensors have no engine."""
    federation = federation_of(method, toy, clients)
    client = federation.probe()
    client.model.train()
    moved = request.getfixturevalue("moved_to_fake_cuda")
    model = moved(client.model)
    optimizer = federation.method.optimizer(client, 1)
    y = model(torch.empty(5, *toy.pixels, device=CUDA))
    assert (y.device, y.shape) == (CUDA, (5, toy.classes))
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained
    for parameter in trained:
        parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    assert {p.device for p in trained} == {CUDA}
    model.eval()
    if method != "fedpm":  # which reads the scores to draw its mask
        assert model(torch.empty(5, *toy.pixels, device=CUDA)).device == CUDA


class Visits:
    """Stands in for the moves to a device, and notes which models are there."""

    def __init__(self) -> None:
        self.there: list[nn.Module] = []
        self.count = 0

    @contextlib.contextmanager
    def computing_on(self, device: torch.device, model: nn.Module):
        assert device == CUDA
        self.count += 1
        self.there.append(model)
        try:
            yield
        finally:
            self.there.pop()


@pytest.fixture
def visits(monkeypatch) -> Visits:
    """Sends everything to a device that is the CPU."""
    seen = Visits()
    for module in ("engine", "training", "methods.fedtiny", "methods._fedtiny_selection"):
        monkeypatch.setattr(f"sparsefl.fl.{module}.computing_on", seen.computing_on)
    original = torch.Tensor.to

    def to(tensor, *arguments, **options):
        kept = [a for a in arguments if a != CUDA]
        return original(tensor, *kept, **options) if kept or options else tensor

    monkeypatch.setattr(torch.Tensor, "to", to)
    return seen


@pytest.mark.parametrize("method", METHODS)
def test_all_passes_run_on_the_device(method, toy, clients, visits):
    """Local steps, pre-training, selection and a client's own evaluation."""
    federation = federation_of(method, toy, clients, CUDA)
    factory, passes = federation.task.factory, []
    assert not visits.there

    def watched() -> nn.Module:
        model = factory()
        model.register_forward_hook(lambda *_: passes.append(bool(visits.there)))
        return model

    object.__setattr__(federation.task, "factory", watched)
    federation.play(1)
    federation.play(2)
    assert passes
    assert all(passes)
    assert visits.count >= 2 * len(clients)


def test_a_model_comes_back_without_gradients_also_after_an_error(monkeypatch):
    """The meta device is one to move to; what is there does not come back, so moves are noted."""
    model, moves = nn.Linear(3, 2), []
    model(torch.ones(1, 3)).sum().backward()
    monkeypatch.setattr(model, "to", moves.append)
    with contextlib.suppress(KeyError), devices.computing_on(CUDA, model):
        assert moves == [CUDA]
        raise KeyError
    assert moves == [CUDA, devices.HOST]
    assert model.weight.grad is None


def test_on_the_cpu_nothing_happens(monkeypatch):
    model = nn.Linear(3, 2)
    monkeypatch.setattr(model, "to", None)
    with devices.computing_on(devices.HOST, model):
        model(torch.ones(1, 3)).sum().backward()
    assert model.weight.grad is not None


def test_memory_is_measured_on_the_cpu_alone(small, monkeypatch):
    from sparsefl.fl import Description, runner

    monkeypatch.setattr(runner, "check_device", lambda _: CUDA)
    with pytest.raises(ValueError, match="memory_cell must be None on cuda:0"):
        small("fedavg", device="cuda", description=Description(memory_cell={}))


def test_a_model_is_where_its_parameters_are():
    assert devices.device_of(nn.Linear(3, 2, device="meta")) == torch.device("meta")
    assert devices.device_of(nn.Flatten()) == devices.HOST
