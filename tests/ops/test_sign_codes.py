"""Codes of columns and signs: the same bits as by the scores, whatever happens to these."""

import copy
import pickle
import threading

import pytest
import torch

from sparsefl import Support, ops
from sparsefl.nn import SignLinear

pytestmark = [pytest.mark.isa, pytest.mark.usefixtures("sparse_layout")]

MAGNITUDE = 0.37


def plan_of(out: int, inner: int, density: float) -> ops.LinearPlan:
    return ops.LinearPlan(Support.random((out, inner), density, seed=3))


def results(x, scores, bias, plan, codes, grad, **options):
    """Returns output and gradients."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, scores, bias)]
    y = ops.sign_linear(leaves[0], leaves[1], MAGNITUDE, leaves[2], plan, codes=codes, **options)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]


def assert_same(found, expected):
    assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))


@pytest.mark.parametrize("density", [0.0, 0.01, 0.1, 0.6], ids="density={}".format)
@pytest.mark.parametrize(("batch", "out", "inner"), [(2, 5, 7), (16, 129, 257), (70, 300, 1100)])
def test_equals_the_scores_path_step_after_step(op_calls, batch, out, inner, density):
    plan, codes = plan_of(out, inner, density), ops.SignCodes()
    scores, bias = torch.randn(plan.support.nnz), torch.randn(out)
    for changed in (1.0, 0.0, 0.1, 1.0):
        flips = torch.rand(plan.support.nnz) < changed
        scores = torch.where(flips, torch.randn(plan.support.nnz), scores)
        scores[1:5] = torch.tensor([0.0, -0.0, float("nan"), -float("inf")])[: len(scores[1:5])]
        x, grad = torch.randn(batch, inner), torch.randn(batch, out)
        with op_calls() as calls:
            found = results(x, scores, bias, plan, codes, grad)
        assert calls == {"coded_linear": 1, "coded_linear_backward": 1}
        assert_same(found, results(x, scores, bias, plan, None, grad))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_dtypes_equal_the_scores_path(dtype):
    plan, codes = plan_of(33, 150, 0.3), ops.SignCodes()
    x, scores, bias, grad = (
        torch.randn(*size, dtype=dtype)
        for size in ((19, 150), (plan.support.nnz,), (33,), (19, 33))
    )
    for sign in (1, -1):
        found = results(x, sign * scores, bias, plan, codes, grad, row_major=True)
        assert_same(found, results(x, sign * scores, bias, plan, None, grad, row_major=True))


def test_sees_what_autograd_does_not():
    plan, codes = plan_of(31, 65, 0.3), ops.SignCodes()
    scores, x = torch.nn.Parameter(torch.randn(plan.support.nnz)), torch.randn(7, 65)
    before = ops.sign_linear(x, scores, MAGNITUDE, None, plan, codes=codes)
    scores.data.neg_()
    after = ops.sign_linear(x, scores, MAGNITUDE, None, plan, codes=codes)
    assert torch.equal(after, -before)


def test_backward_after_a_forward_with_other_scores_takes_its_own():
    plan, codes = plan_of(31, 65, 0.3), ops.SignCodes()
    first, second = (torch.randn(plan.support.nnz).requires_grad_() for _ in range(2))
    x, bias, grad = torch.randn(7, 65).requires_grad_(), torch.randn(31), torch.randn(7, 31)
    y = ops.sign_linear(x, first, MAGNITUDE, bias, plan, codes=codes)
    ops.sign_linear(x, second, MAGNITUDE, bias, plan, codes=codes)
    expected = results(x, first, bias, plan, None, grad)[1:3]
    assert_same(torch.autograd.grad(y, (x, first), grad, retain_graph=True), expected)
    assert_same(torch.autograd.grad(y, (x, first), grad), expected)


def test_a_call_while_another_has_the_codes_reads_the_scores(op_calls):
    plan, codes = plan_of(31, 65, 0.3), ops.SignCodes()
    x, scores, bias, grad = (torch.randn(s) for s in ((7, 65), (plan.support.nnz,), (31,), (7, 31)))
    expected = results(x, scores, bias, plan, codes, grad)
    assert codes.acquire(plan)
    with op_calls() as calls:
        found = results(x, scores, bias, plan, codes, grad)
    codes.release()
    assert calls == {"sign_linear": 1, "sign_linear_backward": 1}
    assert_same(found, expected)
    leaves = [t.clone().requires_grad_() for t in (x, scores)]
    y = ops.sign_linear(*leaves, MAGNITUDE, bias, plan, codes=codes)
    assert codes.acquire(plan)
    with op_calls() as calls:
        gradients = torch.autograd.grad(y, leaves, grad)
    codes.release()
    assert calls == {"sign_linear_backward": 1}
    assert_same(gradients, expected[1:3])


def test_threads_with_different_scores_do_not_disturb_each_other():
    plan, codes = plan_of(64, 300, 0.3), ops.SignCodes()
    x, bias, grad = torch.randn(32, 300), torch.randn(64), torch.randn(32, 64)
    scores = [torch.randn(plan.support.nnz) for _ in range(3)]
    expected = [results(x, s, bias, plan, None, grad) for s in scores]
    wrong = []

    def work(which: int) -> None:
        for _ in range(30):
            found = results(x, scores[which], bias, plan, codes, grad)
            if not all(torch.equal(f, e) for f, e in zip(found, expected[which], strict=True)):
                wrong.append(which)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("batch", [1, 0])
def test_one_sample_or_none_reads_the_scores(op_calls, batch):
    plan = plan_of(31, 65, 0.3)
    x, scores = torch.randn(batch, 65), torch.randn(plan.support.nnz)
    with op_calls() as calls:
        ops.sign_linear(x, scores, MAGNITUDE, None, plan, codes=ops.SignCodes())
    assert calls == {"sign_linear": 1}


def test_only_what_is_wanted_is_computed(op_calls):
    plan, codes = plan_of(31, 65, 0.3), ops.SignCodes()
    x, scores = torch.randn(7, 65), torch.randn(plan.support.nnz).requires_grad_()
    y = ops.sign_linear(x, scores, MAGNITUDE, None, plan, codes=codes)
    with op_calls() as calls:
        (gradient,) = torch.autograd.grad(y.sum(), scores)
    assert calls.arguments["coded_linear_backward"][-1] == [0, 1, 0]
    expected = results(x, scores, torch.zeros(31), plan, None, torch.ones(7, 31))[2]
    assert torch.equal(gradient, expected)


def test_layers_keep_codes_and_copies_start_without(op_calls):
    layer = SignLinear(65, 31, Support.random((31, 65), 0.3, seed=1))
    x = torch.randn(7, 65)
    with op_calls() as calls:
        y = layer(x)
    assert calls == {"coded_linear": 1}
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(copied(x), y)
        assert copied._codes is not layer._codes
    layer.set_support(Support.random((31, 65), 0.4, seed=2))
    torch.testing.assert_close(layer(x), layer.to_dense()(x))


def test_opcheck():
    plan, codes = plan_of(12, 20, 0.3), ops.SignCodes()
    x, scores, bias = torch.randn(7, 20), torch.randn(plan.support.nnz), torch.randn(12)
    assert codes.acquire(plan)
    view, back = plan.forward, plan.transposed
    namespace = torch.ops.sparsefl
    # What changes codes is never in a compiled graph, which would want no number as a result.
    eager = {"test_utils": ("test_schema", "test_autograd_registration", "test_faketensor")}
    torch.library.opcheck(namespace.sign_codes_update, (scores, *codes.tensors), **eager)
    sizes = (view.begin, view.work, view.block, True)
    forward = (x, scores, 0.5, bias, *codes.tensors, *sizes)
    torch.library.opcheck(namespace.coded_linear, forward, **eager)
    backward = (torch.randn(7, 12), x, 0.5, codes.tensors[1], back.begin, back.work, back.block)
    torch.library.opcheck(namespace.coded_linear_backward, (*backward, [2, 1, 1]))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_layers_read_the_scores():
    layer = SignLinear(65, 31, Support.random((31, 65), 0.3, seed=1))
    x = torch.randn(7, 65)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), layer(x))
    assert torch.equal(compiled(x), layer(x))
