"""Batch norm and pooling in batch-last memory against torch.nn on ordinary tensors."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import sparsefl
import sparsefl.nn.batch_last as batch_last_module
from sparsefl.nn.batch_last import (
    COUNTERPARTS,
    BatchLastAdaptiveAvgPool2d,
    BatchLastAvgPool2d,
    BatchLastBatchNorm2d,
    BatchLastGroupNorm,
    BatchLastMaxPool2d,
    is_batch_last,
)

SHAPES = pytest.mark.parametrize(
    "shape", [(2, 3, 5, 7), (16, 4, 8, 8), (17, 1, 6, 5), (33, 6, 4, 4), (1, 3, 6, 6)], ids=str
)
NORMS = {
    "plain": {},
    "momentum": {"momentum": 0.3, "eps": 1e-3},
    "cumulative": {"momentum": None},
    "affine_free": {"affine": False},
    "no_running_stats": {"track_running_stats": False},
}
POOLS = {
    "max": (BatchLastMaxPool2d, nn.MaxPool2d, {"kernel_size": 2}),
    "max_overlapping": (
        BatchLastMaxPool2d,
        nn.MaxPool2d,
        {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
    ),
    "max_dilated": (BatchLastMaxPool2d, nn.MaxPool2d, {"kernel_size": 2, "dilation": 2}),
    "average": (BatchLastAvgPool2d, nn.AvgPool2d, {"kernel_size": 2}),
    "average_padded": (
        BatchLastAvgPool2d,
        nn.AvgPool2d,
        {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False},
    ),
    "global_average": (BatchLastAdaptiveAvgPool2d, nn.AdaptiveAvgPool2d, {"output_size": 1}),
    "adaptive_average": (
        BatchLastAdaptiveAvgPool2d,
        nn.AdaptiveAvgPool2d,
        {"output_size": (3, 2)},
    ),
}
LAYOUTS = {
    "batch_last": sparsefl.batch_last,
    "contiguous": torch.Tensor.contiguous,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "sliced": lambda x: F.pad(x, (1, 1))[..., 1:-1],
}


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS.keys())
def layout(request):
    return request.param


def run(module, x, seed=3):
    """Returns output and input gradient, contiguous."""
    x = x.detach().requires_grad_()
    out = module(x)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed)).to(out.dtype)
    out.backward(grad)
    return out.detach(), x.grad


@pytest.fixture
def op_names():
    """Returns a context manager that collects the names of the operators that run."""

    class Names(TorchDispatchMode, set):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.add(func.name())
            return func(*args, **(kwargs or {}))

    return Names


@SHAPES
@pytest.mark.parametrize("options", NORMS.values(), ids=NORMS.keys())
def test_batch_norm_is_torchs(shape, options, layout, assert_matches):
    ours, plain = BatchLastBatchNorm2d(shape[1], **options), nn.BatchNorm2d(shape[1], **options)
    exact = nn.BatchNorm2d(shape[1], **options, dtype=torch.float64)
    if plain.affine:
        nn.init.normal_(plain.weight)
        nn.init.normal_(plain.bias)
    ours.load_state_dict(plain.state_dict())
    exact.load_state_dict(plain.state_dict())
    for training in (True, True, False):
        x = torch.randn(shape) * 3 + 1
        modules = [module.train(training) for module in (ours, plain, exact)]
        # Torch's own error depends on the memory format; batch-last is held to that of NCHW.
        same_layout = x if layout is sparsefl.batch_last else layout(x)
        inputs = (layout(x), same_layout, x.double())
        results = [run(module, each) for module, each in zip(modules, inputs, strict=True)]
        for name, (mine, same, reference) in zip(
            ("output", "input gradient"), zip(*results, strict=True), strict=True
        ):
            assert_matches(mine, reference, same, name)
        for name, reference in exact.state_dict().items():
            mine, same = ours.state_dict()[name], plain.state_dict()[name]
            if name == "num_batches_tracked":
                assert torch.equal(mine, same)
            else:
                assert_matches(mine, reference, same, name)
        for (name, mine), same, reference in zip(
            ours.named_parameters(), plain.parameters(), exact.parameters(), strict=True
        ):
            assert_matches(mine.grad, reference.grad, same.grad, f"gradient of {name}")


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    ("shape", "groups"),
    [((2, 6, 5, 7), 3), ((16, 4, 8, 8), 4), ((17, 4, 6, 5), 1), ((1, 6, 6, 6), 2), ((9, 4), 2)],
    ids=str,
)
def test_group_norm_is_torchs(shape, groups, affine, layout, assert_matches):
    if len(shape) != 4 and layout is not LAYOUTS["contiguous"]:
        pytest.skip("another layout of two dimensions")
    modules = [
        kind(groups, shape[1], eps=1e-3, affine=affine)
        for kind in (BatchLastGroupNorm, nn.GroupNorm, nn.GroupNorm)
    ]
    ours, plain, exact = *modules[:2], modules[2].double()
    if affine:
        nn.init.normal_(plain.weight)
        nn.init.normal_(plain.bias)
    ours.load_state_dict(plain.state_dict())
    exact.load_state_dict(plain.state_dict())
    x = torch.randn(shape) * 3 + 1
    results = [run(*pair) for pair in ((ours, layout(x)), (plain, x), (exact, x.double()))]
    for name, mine, same, reference in zip(("output", "input gradient"), *results, strict=True):
        assert_matches(mine, reference, same, name)
    for (name, mine), same, reference in zip(
        ours.named_parameters(), plain.parameters(), exact.parameters(), strict=True
    ):
        assert_matches(mine.grad, reference.grad, same.grad, f"gradient of {name}")


@pytest.mark.parametrize(
    ("shape", "error"),
    [((1, 4, 1, 1), ValueError), ((3, 5, 2, 2), RuntimeError), ((4,), RuntimeError)],
    ids=str,
)
def test_group_norm_refuses_what_torch_refuses(shape, error):
    norm = BatchLastGroupNorm(4, 4)
    with pytest.raises(error) as ours:
        norm(torch.randn(shape))
    with pytest.raises(error) as torchs:
        nn.GroupNorm(4, 4)(torch.randn(shape))
    assert str(ours.value) == str(torchs.value)


def test_running_variance_is_unbiased():
    x = sparsefl.batch_last(torch.randn(6, 2, 3, 5))
    norm = BatchLastBatchNorm2d(2, momentum=1.0)
    norm(x)
    torch.testing.assert_close(norm.running_var, x.transpose(0, 1).flatten(1).var(1))


def test_batch_norm_of_one_value_per_channel_is_refused_as_in_torch():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        BatchLastBatchNorm2d(3)(torch.randn(1, 3, 1, 1))
    two = BatchLastBatchNorm2d(3)(sparsefl.batch_last(torch.randn(2, 3, 1, 1)))
    assert torch.isfinite(two).all()


@SHAPES
@pytest.mark.parametrize(("ours", "plain", "options"), POOLS.values(), ids=POOLS.keys())
def test_pools_are_torchs(ours, plain, options, shape, layout):
    x = torch.randn(shape)
    actual, expected = run(ours(**options), layout(x)), run(plain(**options), x)
    for name, mine, same in zip(("output", "input gradient"), actual, expected, strict=True):
        torch.testing.assert_close(mine, same, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(
    "options", [o for _, _, o in POOLS.values() if "kernel_size" in o], ids=str
)
def test_large_max_pools_are_ours(options, monkeypatch, op_names):
    options = {k: v for k, v in options.items() if k != "count_include_pad"}
    monkeypatch.setattr(batch_last_module, "_LEAST_POOLED", 0)
    x = torch.randn(17, 3, 8, 7)
    with op_names() as names:
        actual = run(BatchLastMaxPool2d(**options), sparsefl.batch_last(x))
    assert {"sparsefl::max_pool2d", "sparsefl::max_pool2d_backward"} <= names
    for mine, same in zip(actual, run(nn.MaxPool2d(**options), x), strict=True):
        torch.testing.assert_close(mine, same)
    assert is_batch_last(actual[0])


def test_max_pool_indices_are_torchs():
    x = torch.randn(5, 3, 6, 6)
    actual = BatchLastMaxPool2d(2, return_indices=True)(sparsefl.batch_last(x))
    expected = nn.MaxPool2d(2, return_indices=True)(x)
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])


@pytest.mark.parametrize(
    "module",
    [
        BatchLastBatchNorm2d(4),
        BatchLastGroupNorm(2, 4),
        *(pool(**options) for pool, _, options in POOLS.values()),
    ],
    ids=["batch_norm", "group_norm", *POOLS],
)
def test_outputs_and_gradients_stay_batch_last(module):
    x = sparsefl.batch_last(torch.randn(6, 4, 8, 8)).requires_grad_()
    gradients = []
    x.register_hook(gradients.append)
    out = module(x)
    assert is_batch_last(out)
    out.backward(sparsefl.batch_last(torch.randn(out.shape)))
    assert is_batch_last(gradients[0])


def test_flatten_of_torch_is_a_free_view():
    x = sparsefl.batch_last(torch.randn(6, 4, 3, 5))
    for flat in (nn.Flatten()(x), x.view(6, -1), x.reshape(6, -1)):
        assert flat.stride() == (1, 6)
        assert flat.data_ptr() == x.data_ptr()
    assert torch.equal(nn.Flatten()(x), nn.Flatten()(x.contiguous()))


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (5, 3, 4), (0, 3, 4, 4)], ids=str)
def test_what_has_no_batch_to_be_last_is_not_batch_last(shape):
    assert not is_batch_last(torch.zeros(shape))


def test_counterparts_have_the_state_of_their_parents():
    for parent, child in COUNTERPARTS.items():
        assert child.__bases__ == (parent,)
        assert "__init__" not in vars(child)
        assert not {"_save_to_state_dict", "_load_from_state_dict"} & set(vars(child))


every_norm = pytest.mark.parametrize(
    ("ours", "plain"),
    [(BatchLastBatchNorm2d, nn.BatchNorm2d), (BatchLastGroupNorm, nn.GroupNorm)],
    ids=["batch_norm", "group_norm"],
)


def make(kind):
    return kind(2, 4) if issubclass(kind, nn.GroupNorm) else kind(4)


@every_norm
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [(9, 4, 5, 5), (9, 4, 1, 1), (4, 1, 1)], ids=str)
def test_norms_add_any_residual(ours, plain, shape, relu, layout):
    norm, x, residual = make(ours), torch.randn(9, 4, 5, 5), torch.randn(shape)
    expected = make(plain)(x) + residual
    actual = norm(layout(x), residual, relu)
    torch.testing.assert_close(actual, expected.relu() if relu else expected)


@every_norm
def test_norms_move_what_a_sparse_convolution_wants(ours, plain):
    norm, x = make(ours), torch.randn(9, 4, 5, 5)
    assert norm(x).is_contiguous()
    norm.to_batch_last = True
    assert is_batch_last(norm(x))
    torch.testing.assert_close(norm(x), make(plain)(x))


@every_norm
def test_norms_take_other_dtypes_as_torch_does(ours, plain):
    x = torch.randn(9, 4, 5, 5, dtype=torch.bfloat16)
    expected = make(plain)(x)
    assert torch.equal(make(ours)(sparsefl.batch_last(x)), expected)


def test_a_network_keeps_batch_last_memory_between_its_convolutions(random_mask):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    masks = {f"{i}.weight": random_mask(model[i].weight.shape) for i in (0, 4)}
    sparse = sparsefl.sparsify(model, masks)
    x = torch.randn(20, 3, 8, 8)
    for module in copy.deepcopy(sparse)[:6]:
        x = module(x)
        assert is_batch_last(x), type(module).__name__
