"""Layers used as layers are used: odd inputs, threads, workers, wrappers, partial training."""

import copy
import tempfile
import threading

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.optim.swa_utils import AveragedModel

import sparsefl


@pytest.fixture(params=[0.3, 0.9], ids="density={}".format)
def model(request, kind, random_mask):
    dense = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 1),
        nn.Flatten(),
        nn.Linear(128, 10),
    )
    masks = {f"{i}.weight": random_mask(dense[i].weight.shape, request.param) for i in (0, 4, 6)}
    return sparsefl.sparsify(dense, masks, layer=kind).eval()


INPUTS = {
    "empty": lambda x: x[:0],
    "one": lambda x: x[:1],
    "many": lambda x: x.repeat(40, 1, 1, 1),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "batch_last": sparsefl.batch_last,
    "sliced": lambda x: torch.cat([x, x], 3)[..., ::2],
    "expanded": lambda x: x[:1].expand(4, -1, -1, -1),
    "transposed": lambda x: x.transpose(2, 3),
    "offset": lambda x: x.flatten()[5 : 5 + 192].view(1, 3, 8, 8),
    "imaginary_of_conjugate": lambda x: torch.complex(x, x).conj().imag,
}


@pytest.mark.parametrize("change", INPUTS.values(), ids=INPUTS.keys())
def test_inputs_of_any_memory_are_taken(model, change):
    x = change(torch.randn(6, 3, 8, 8))
    torch.testing.assert_close(model(x), sparsefl.densify(model)(x))


def test_inference_mode_leaves_the_model_trainable(model):
    x = torch.randn(4, 3, 8, 8)
    expected = model(x)
    with torch.inference_mode():
        assert torch.equal(model(x), expected)
    model.train()(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("trained", ["input", "bias", "latent"])
def test_only_what_is_asked_for_gets_a_gradient(model, trained):
    model.requires_grad_(False)
    x = torch.randn(4, 3, 8, 8, requires_grad=trained == "input")
    wanted = {"bias": "bias", "latent": model[6].latent_name}.get(trained)
    if wanted:
        model[6].get_parameter(wanted).requires_grad_()
    model(x).sum().backward()
    names = [name for name, p in model.named_parameters() if p.grad is not None]
    assert names == ([f"6.{wanted}"] if wanted else [])
    assert (x.grad is not None) == (trained == "input")


def test_threads_share_a_model(model):
    x = torch.randn(5, 3, 8, 8)
    model(x).square().sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    results = [None] * 4

    def train(index):
        twin = copy.deepcopy(model)
        for _ in range(5):
            twin.zero_grad()
            twin(x).square().sum().backward()
        results[index] = [p.grad for p in twin.parameters()]

    threads = [threading.Thread(target=train, args=(i,)) for i in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for gradients in results:
        for ours, theirs in zip(gradients, expected, strict=True):
            torch.testing.assert_close(ours, theirs)


class Features(torch.utils.data.Dataset):
    """Samples that a model has computed."""

    def __init__(self, model):
        self.model = model

    def __len__(self):
        return 4

    def __getitem__(self, index):
        with torch.no_grad():
            return self.model(torch.full((8, 3, 8, 8), float(index)))


def test_forked_workers_run_a_model_that_the_parent_has_trained(model):
    model(torch.randn(64, 3, 8, 8)).sum().backward()
    loader = torch.utils.data.DataLoader(
        Features(model), num_workers=2, multiprocessing_context="fork", timeout=60
    )
    for index, features in enumerate(loader):
        torch.testing.assert_close(features[0], Features(model)[index])


def test_averages_of_models(model):
    averaged = AveragedModel(model)
    averaged.update_parameters(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    averaged.update_parameters(other)
    for mean, first in zip(averaged.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mean, first + 0.5)


def test_assigned_state_trains_on(model):
    state = {name: value.clone() for name, value in model.state_dict().items()}
    twin = copy.deepcopy(model)
    twin.load_state_dict(state, assign=True)
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(twin(x), model(x))
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    twin(x).sum().backward()
    optimizer.step()
    assert not torch.equal(twin(x), model(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_models_train_in_short_formats(model, dtype):
    short = copy.deepcopy(model).to(dtype)
    x = torch.randn(6, 3, 8, 8)
    optimizer = torch.optim.SGD(short.parameters(), lr=0.1, momentum=0.9)
    before = short[6]._latent.detach().clone()
    out = short(x.to(dtype))
    out.float().pow(2).sum().backward()
    optimizer.step()
    assert out.dtype == dtype
    # Of the float32 model, up to what rounding to the format does to each of its few layers.
    torch.testing.assert_close(out.float(), model(x), rtol=0.1, atol=0.05)
    assert all(p.dtype == p.grad.dtype == dtype for p in short.parameters())
    assert not torch.equal(short[6]._latent, before)
    loaded = copy.deepcopy(short)
    loaded.load_state_dict(model.state_dict())
    assert loaded[6].latent_name in dict(loaded[6].named_parameters())


def test_formats_without_kernels_are_refused_by_name(model):
    with pytest.raises(TypeError, match=r"computes in float32.*not in torch.complex64.*densify"):
        model[6]._apply(lambda t: t.to(torch.complex64))


@pytest.mark.parametrize("name", ["weight", "latent"])
def test_pruning_a_sparse_layer_names_set_support(model, name):
    name = model[6].latent_name if name == "latent" else name
    with pytest.raises(ValueError, match=r"pruned by its support: call layer\.set_support"):
        nn.utils.prune.l1_unstructured(model[6], name, 0.5)
    model(torch.randn(2, 3, 8, 8))


def test_distributed_training_wraps_and_is_wrapped(random_mask):
    dense = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    x = torch.randn(3, 6)
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            for wrapper in (nn.parallel.DistributedDataParallel, nn.DataParallel):
                sparse = sparsefl.sparsify(dense, {"0.weight": random_mask((5, 6))})
                wrapped = wrapper(sparse)
                wrapped(x).sum().backward()
                assert sparse[0].values.grad is not None
                inside = sparsefl.sparsify(wrapper(dense), {"module.0.weight": random_mask((5, 6))})
                torch.testing.assert_close(inside(x), wrapped(x))
        finally:
            dist.destroy_process_group()


def test_a_transformer_runs_alike_in_training_and_evaluation(random_mask):
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2)
    masks = {
        name: random_mask(parameter.shape, 0.4, seed)
        for seed, (name, parameter) in enumerate(encoder.named_parameters())
        if name.endswith(("linear1.weight", "linear2.weight"))
    }
    sparse = sparsefl.sparsify(encoder, masks)
    plain = sparsefl.densify(sparse)
    x = torch.randn(3, 5, 16)
    for training in (True, False):
        for mode in (torch.enable_grad, torch.no_grad):
            with mode():
                torch.testing.assert_close(
                    sparse.train(training)(x), plain.train(training)(x), rtol=1e-4, atol=1e-5
                )
