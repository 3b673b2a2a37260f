"""The benchmark of a CUDA device, without one: steps on the CPU, figures, files, the refusal."""

import importlib.util
import json

import numpy as np
import pytest
import torch

from sparsefl.bench import device, device_cases, device_networks, device_packing, runner

CPU = torch.device("cpu")
NEEDS_TRITON = ("torch_bsr_dense_addmm", "torch_sampled_addmm", "sparsefl_block_dw")
SMALL = [
    *device_cases.cases(size=256, batches=(16,), copied=64),
    *device_packing.packing_cases(elements=1024, largest=500, features=64, rows=(3,)),
    *device_networks.network_cases(batch=2, width=0.125, stages=((32, 4),)),
]


@pytest.fixture(autouse=True)
def precision_kept():
    before = torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("case", [c for c in SMALL if c.baseline == "torch"], ids=lambda c: c.name)
def test_torch_packs_what_we_pack(case):
    found = {}
    for provider in ("torch", "sparsefl"):
        torch.manual_seed(1)
        found[provider] = case.make[provider](CPU)()
    if case.name in ("top-k", "growth"):
        values = (of.values.abs().sort().values for of in found.values())
        torch.testing.assert_close(*values)
    else:
        assert torch.equal(*found.values())


def test_every_step_runs_twice():
    ran = set()
    for case in SMALL:
        if case.density in (0.5, 0.1):
            continue  # other numbers alone
        for provider, make in case.make.items():
            if provider not in NEEDS_TRITON:
                step = make(CPU)
                step(), step()
                ran.add((case.name, provider))
    assert {name for name, _ in ran} >= {"copy", "launch", "matmul", "layer step", "resnet18 step"}
    assert ("layer step", "sparsefl_sign") in ran
    assert ("block conv step", "sparsefl_sign_kernels_16") in ran


@pytest.mark.skipif(importlib.util.find_spec("triton") is not None, reason="triton is installed")
def test_what_needs_triton_says_so():
    makes = [make for case in SMALL for name, make in case.make.items() if name in NEEDS_TRITON]
    assert makes
    for make in makes:
        with pytest.raises(ImportError, match="triton"):
            make(CPU)


def test_block_masks_keep_whole_blocks():
    mask = device_cases.block_mask({"out_features": 512, "in_features": 256}, 0.25)
    blocks = mask.view(4, 128, 2, 128).permute(0, 2, 1, 3).flatten(2)
    assert torch.equal(blocks.any(2), blocks.all(2))
    assert mask.float().mean() == 0.25


def test_a_machine_without_a_device_is_refused(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert runner.main(["--device", "cuda"]) == 2
    assert "error: --device cuda: " in capsys.readouterr().err


def test_a_provider_that_cannot_run_is_told_and_the_others_are_timed(monkeypatch, tmp_path):
    def missing(_):
        raise ImportError("no triton\nat all")

    case = device_cases.DeviceCase(
        *("matmul", {"batch": 2}, "bfloat16", 1.0),
        {"torch_dense": lambda _: lambda: 0, "ours": lambda _: lambda: 1, "other": missing},
        flops=4_000_000,
    )
    for name in ("reset_peak_memory_stats", "memory_allocated", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda device=None: 0)
    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda device=None: None)
    seconds = {0: 4e-6, 1: 2e-6}
    monkeypatch.setattr(device, "timed", lambda step, *_: (lambda: (seconds[step()],), "graph"))
    monkeypatch.setattr(device, "FLUSHED", 1)
    found = list(device.measure(case, CPU, device.Effort(0, 5, 1)))
    assert [row.get("ratio") for row in found] == [1.0, 2.0, None]
    assert [row.get("dense_tflops") for row in found] == [1.0, 2.0, None]
    assert found[2]["missing"] == "ImportError: no triton"
    assert "not timed" in device.line(found[2])
    assert "2.00x" in device.line(found[1])
    path = tmp_path / "results" / "device.json"
    device.write({"device": "a GPU"}, found, path)
    assert json.loads(path.read_text()) == {"run": {"device": "a GPU"}, "rows": found}


def test_a_copys_figure_is_its_bytes():
    case = next(iter(SMALL))
    found = device.figures(case, np.full(5, 1e-6), None)
    assert found["gb_per_s"] == pytest.approx(8 * 64 / 1e-6 / 1e9, abs=0.1)
