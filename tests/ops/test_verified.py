"""Unverified kernels of GPUs are no default, and what the list of verified ones holds."""

import json
import sys

import pytest
import torch

from sparsefl import Support
from sparsefl.bench import verified as writer
from sparsefl.bench.verified import Outcome
from sparsefl.ops import _dispatch, _passes, _verified

CUDA = torch.device("cuda:0")


@pytest.fixture
def told(monkeypatch):
    """Sets the environment, and says which architecture a CUDA device is."""

    def tell(override: str | None, architecture: str = "sm_90", held: dict | None = None) -> None:
        monkeypatch.delenv(_verified.OVERRIDE, raising=False)
        if override is not None:
            monkeypatch.setenv(_verified.OVERRIDE, override)
        monkeypatch.setattr(_verified, "architecture", lambda device: architecture)
        monkeypatch.setattr(_verified, "read", lambda: held or {})
        monkeypatch.setattr(_verified, "_has_cuda", lambda kernel: True)
        _verified.forget()

    yield tell
    monkeypatch.undo()
    _verified.forget()


def test_the_cpus_kernels_need_no_list(told):
    told("none")
    assert _dispatch.verified("top_k", torch.device("cpu"))


@pytest.mark.parametrize(
    ("override", "architecture", "expected"),
    [
        (None, "sm_90", [True, False]),
        ("verified", "sm_80", [False, False]),
        ("all", "sm_80", [True, True]),
        ("none", "sm_90", [False, False]),
    ],
)
def test_the_list_is_by_architecture_and_can_be_overridden(told, override, architecture, expected):
    told(override, architecture, {"sm_90": {"top_k": {}}})
    assert [_dispatch.verified(kernel, CUDA) for kernel in ("top_k", "block_dw")] == expected


@pytest.mark.parametrize("override", ["all", "verified"])
def test_a_kernel_that_is_not_there_is_not_used(told, override, monkeypatch):
    told(override, held={"sm_90": {"top_k": {}, "block_dw": {}}})
    assert _dispatch.verified("top_k", CUDA)
    assert _dispatch.verified("block_dw", CUDA)
    _verified.forget()
    monkeypatch.setattr(_verified, "_has_cuda", lambda kernel: False)
    monkeypatch.setitem(sys.modules, "triton", None)
    assert not _dispatch.verified("top_k", CUDA)
    assert not _dispatch.verified("block_dw", CUDA)
    assert _verified.missing("block_dw") == "triton is not installed"
    support = Support.random((32, 32), 0.5, structure=(16, 16))
    assert not _passes.kernels_for(support, CUDA)


def test_another_override_is_refused(told):
    told("some")
    with pytest.raises(ValueError, match="SPARSEFL_GPU_KERNELS='some': expected one of verified"):
        _dispatch.verified("top_k", CUDA)


def unknown(lists: dict[str, dict[str, dict[str, str]]]) -> list[str]:
    """What in lists by architecture is no kernel of ours, or does not say where it was tested."""
    known = {*_verified.CUDA_KERNELS}
    try:
        from sparsefl.kernels import REGISTRY
    except ImportError:
        REGISTRY = {}
    return [
        f"{architecture} {kernel}"
        for architecture, kernels in lists.items()
        for kernel, told in kernels.items()
        if not architecture.startswith("sm_")
        or kernel not in known | {*REGISTRY}
        or not {"commit", "device", "torch", "triton"} <= {*told}
    ]


def test_the_shipped_list_names_known_kernels():
    told = dict.fromkeys(("commit", "device", "torch", "triton"), "1")
    listed = {"sm_90": {"top_k": told, "top_l": told, "vote": {}}, "80": {"top_k": told}}
    assert unknown(listed) == ["sm_90 top_l", "sm_90 vote", "80 top_k"]
    assert unknown(_verified.read()) == []


@pytest.mark.parametrize("held", ["[]", '{"sm_90": ["top_k"]}', '{"sm_90": {"top_k": 1}}'])
def test_another_file_is_refused(held, tmp_path):
    path = tmp_path / "verified.json"
    path.write_text(held)
    with pytest.raises(ValueError, match="expected kernels by architecture"):
        _verified.read(path)


def test_a_kernel_is_verified_if_all_its_tests_ran_and_passed():
    outcomes = [Outcome(("a", "b"), True), Outcome(("b",), False), Outcome(("c",), True)]
    assert writer.passed(outcomes) == ("a", "c")


def test_a_run_replaces_what_it_tested_alone(tmp_path, monkeypatch):
    path = tmp_path / "verified.json"
    old = {"sm_80": {"a": {"commit": "1"}}, "sm_90": {"b": {"commit": "1"}, "d": {"commit": "1"}}}
    path.write_text(json.dumps(old))
    monkeypatch.setattr(_verified, "architecture", lambda device: "sm_90")
    monkeypatch.setattr(writer, "context", lambda: {"commit": "2"})
    writer.write([Outcome(("a",), True), Outcome(("b",), False)], path)
    assert _verified.read(path) == {
        "sm_80": {"a": {"commit": "1"}},
        "sm_90": {"a": {"commit": "2"}, "d": {"commit": "1"}},
    }
