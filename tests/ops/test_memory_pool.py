"""Large results come from a pool: lent as long as a tensor refers to them, then used again."""

import copy
import gc
import pickle
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sparsefl import ops

pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="the pool is Linux's alone")

MIB = 1 << 20


def turned(value: float, mib: int = 1) -> torch.Tensor:
    """Returns a result of so many MiB, every element ``value``."""
    return ops.batch_last(torch.full((64, mib * MIB // 256), float(value)))


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a program in a process of its own, with what it is asked for in the environment."""
    command = [sys.executable, "-c", "import os\n" + program]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(autouse=True)
def released():
    """Starts from a pool that keeps nothing."""
    gc.collect()
    ops.release_memory()
    assert ops.memory_counts().kept_bytes == 0


def lent_bytes() -> int:
    return ops.memory_counts().lent_bytes


def test_a_large_result_is_lent_and_a_small_one_is_not():
    before = lent_bytes()
    small = ops.batch_last(torch.randn(64, 1023))
    assert small.element_size() * small.numel() < 256 << 10
    assert lent_bytes() == before
    large = ops.batch_last(torch.randn(64, 1024))
    assert lent_bytes() == before + (256 << 10)
    assert large.device == torch.device("cpu")
    assert large.untyped_storage().nbytes() == 256 << 10


def test_freed_memory_is_lent_again():
    first = turned(1)
    at = first.data_ptr()
    del first
    before = ops.memory_counts()
    again = turned(2)
    after = ops.memory_counts()
    assert again.data_ptr() == at
    assert (after.fresh_bytes, after.kept_bytes) == (before.fresh_bytes, before.kept_bytes - MIB)


@pytest.mark.parametrize(
    "refer",
    [
        lambda y: y[3:5, 7:],
        lambda y: y.detach(),
        lambda y: y.numpy()[:, :9],
        lambda y: torch.nn.Parameter(y),
        lambda y: y.untyped_storage(),
        lambda y: torch.from_dlpack(y),
    ],
    ids=["view", "detached", "numpy", "parameter", "storage", "dlpack"],
)
def test_what_is_referred_to_stays(refer):
    before = lent_bytes()
    kept = refer(turned(3))
    others = [turned(4) for _ in range(8)]
    values = kept
    if isinstance(kept, torch.UntypedStorage):
        values = torch.tensor([], dtype=torch.float32).set_(kept)
    assert (torch.as_tensor(values) == 3).all()
    del others, kept, values
    assert lent_bytes() == before


def test_copies_are_the_same_numbers():
    y = turned(5)
    shared = turned(5).share_memory_()
    assert shared.is_shared()
    for other in (copy.deepcopy(y), pickle.loads(pickle.dumps(y)), shared, y.clone()):
        assert torch.equal(other, y)


def test_results_made_in_inference_mode_are_inference_tensors():
    x = torch.randn(64, 1024)
    with torch.inference_mode():
        assert ops.batch_last(x).is_inference()


def test_threads_are_lent_memory_of_their_own():
    def work(value: int) -> bool:
        kept = [turned(value, 1 + i % 3) for i in range(10)]
        for i in range(0, 10, 2):
            kept[i] = turned(value, 2)
        return all(bool((y == value).all()) for y in kept)

    before = lent_bytes()
    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(12)))
    assert lent_bytes() == before


FORK = """
import torch
from sparsefl import ops

torch.set_num_threads(1)  # torch's own operators would wait for threads that a child has not
kept = ops.batch_last(torch.ones(64, 4096))
child = os.fork()
if child == 0:
    kept.fill_(2)
    more = [ops.batch_last(torch.full((64, 4096), 3.0)) for _ in range(4)]
    del kept
    others = [ops.batch_last(torch.full((64, 4096), 4.0)) for _ in range(4)]
    os._exit(int(not all(bool((y == 3).all()) for y in more)))
_, status = os.waitpid(child, 0)
assert status == 0, status
assert (kept == 1).all()
"""


def test_a_forked_child_has_a_pool_of_its_own():
    done = run(FORK)
    assert done.returncode == 0, done.stderr


COUNT = """
import torch
from sparsefl import ops

y = ops.batch_last(torch.ones(64, 4096))
assert (y == 1).all()
print(ops.memory_counts().lent_bytes)
"""


@pytest.mark.parametrize(("asked", "lent"), [("0", 0), ("1", MIB), ("", MIB), ("poison", MIB)])
def test_the_environment_switches_it_off(asked, lent):
    done = run(COUNT, SPARSEFL_MEMORY_POOL=asked)
    assert done.stdout.strip() == str(lent), done.stderr


def test_an_unknown_request_names_what_is_expected():
    done = run(COUNT, SPARSEFL_MEMORY_POOL="yes")
    assert done.returncode != 0
    assert "SPARSEFL_MEMORY_POOL=yes: expected 0, 1 or poison" in done.stderr


def test_few_addresses_suffice():
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 33, 1 << 33))\n"
    done = run(limit + COUNT)
    assert done.stdout.strip() == str(MIB), done.stderr


STEPS = """
import torch
from sparsefl import models, nn, ops, pruning

torch.manual_seed(0)
dense = models.build("resnet18", (3, 32, 32), 10, width=0.25)
model = nn.sparsify(dense, pruning.random(dense, 0.1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
x, labels = torch.randn(32, 3, 32, 32), torch.randint(10, (32,))

def step():
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(x), labels).backward()
    optimizer.step()

step()
first = ops.memory_counts()
for _ in range(3):
    step()
last = ops.memory_counts()
print(first.peak_bytes, last.peak_bytes, first.fresh_bytes, last.fresh_bytes)
"""


def test_a_network_trains_in_the_pages_of_its_first_step():
    done = run(STEPS)
    assert done.returncode == 0, done.stderr
    first_peak, peak, first_fresh, fresh = map(int, done.stdout.split())
    # What a norm reads takes 2 MiB in stage 1, and half of it in each stage after it.
    assert 12 * MIB < peak < 40 * MIB
    assert peak - first_peak < MIB
    assert first_fresh <= 1.05 * first_peak
    assert fresh - first_fresh < MIB
