import numpy as np
import pytest
import torch

from sparsefl import codec


class Opaque(torch.nn.Module):
    """Stores other tensors than those that it stands for, as sparsefl's layers do."""

    def __init__(self):
        super().__init__()
        self.values = torch.nn.Parameter(torch.zeros(4))
        self.inner = torch.nn.Linear(2, 2)

    def dense_state_shapes(self):
        return {"weight": ((5, 3), torch.float32), "bias": ((5,), "float32")}


class Buffered(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("kept", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


def test_of_a_plain_model_is_its_state():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), Buffered())

    schema = codec.Schema.of(model)

    assert list(schema) == list(model.state_dict())
    assert schema["0.weight"] == ((4, 3, 3, 3), "float32")
    assert schema["1.num_batches_tracked"] == ((), "int64")
    assert "2.scratch" not in schema


def test_of_a_model_with_sparse_layers_has_the_dense_names():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Sequential(Opaque()), Buffered())

    schema = codec.Schema.of(model)

    assert list(schema) == ["0.weight", "0.bias", "1.0.weight", "1.0.bias", "2.kept"]
    assert schema["1.0.weight"] == ((5, 3), "float32")


def test_of_one_sparse_layer():
    assert list(codec.Schema.of(Opaque())) == ["weight", "bias"]


def test_tied_modules_are_listed_under_both_names():
    tied = torch.nn.Linear(2, 2)
    model = torch.nn.Sequential(tied, tied, Opaque())

    names = list(codec.Schema.of(model))

    assert names == ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]


@pytest.mark.parametrize(
    "dtype", [torch.float32, np.float32, np.dtype("float32"), "float32"], ids=str
)
def test_dtypes_of_torch_and_numpy_are_one(dtype):
    assert codec.Schema({"w": ((2,), dtype)}) == codec.Schema({"w": ((2,), "float32")})


@pytest.mark.parametrize(
    "other",
    [
        {"w": ((2, 3), "float32")},
        {"b": ((3,), "float32"), "w": ((2, 3), "float32")},
        {"w": ((3, 2), "float32"), "b": ((3,), "float32")},
        {"w": ((2, 3), "float64"), "b": ((3,), "float32")},
        {"v": ((2, 3), "float32"), "b": ((3,), "float32")},
        {"w": ((2, 3, 1), "float32"), "b": ((3,), "float32")},
    ],
    ids=["fewer", "order", "shape", "dtype", "name", "dimensions"],
)
def test_fingerprints_tell_schemas_apart(other):
    schema = codec.Schema({"w": ((2, 3), "float32"), "b": ((3,), "float32")})

    assert schema != codec.Schema(other)
    assert schema.fingerprint != codec.Schema(other).fingerprint


def test_is_a_mapping():
    schema = codec.Schema({"w": ((2, 3), "float32"), "n": ((), "int64")})

    assert dict(schema) == {"w": ((2, 3), "float32"), "n": ((), "int64")}
    assert schema["w"].numel == 6
    assert schema.ordinal("n") == 1
    assert {schema: 1}[codec.Schema(dict(schema))] == 1
