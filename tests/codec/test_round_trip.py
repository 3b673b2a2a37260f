"""What is sent comes back: rounded as the format says, in arrays of the receiver's own."""

import numpy as np
import pytest
import torch

from sparsefl import codec
from sparsefl.support import Support


def test_bf16_rounds_to_nearest_even():
    random = np.random.default_rng(1)
    bits = random.integers(0, 2**32, size=50_000, dtype=np.uint32)
    ties = np.arange(0x3F808000, 0x3F888000, 0x8000, dtype=np.uint32)
    values = np.concatenate([bits, ties]).view(np.float32)
    values = values[np.abs(values) < 3.38e38]
    schema = codec.Schema({"w": (values.shape, "float32")})

    back = codec.decode(
        codec.encode(codec.Update({"w": codec.Dense(values)}), schema, "bf16"), schema
    )

    expected = torch.from_numpy(values).bfloat16().float().numpy()
    assert np.array_equal(back["w"].values.view(np.uint32), expected.view(np.uint32))


def test_torch_tensors_of_any_strides_and_dtype():
    schema = codec.Schema({"w": ((4, 6), "float32"), "h": ((3,), "bfloat16")})
    w = torch.randn(6, 4, requires_grad=True).t()
    h = torch.randn(3).bfloat16()
    update = codec.Update({"w": codec.Dense(w), "h": codec.Dense(h)})

    back = codec.decode(codec.encode(update, schema, "raw"), schema)

    assert torch.equal(torch.as_tensor(back["w"].values), w.detach())
    assert torch.equal(torch.as_tensor(back["h"].values).bfloat16(), h)


def test_decoded_arrays_are_the_receivers_own():
    schema = codec.Schema({"w": ((3,), "float32")})
    data = codec.encode(codec.Update({"w": codec.Dense(np.ones(3, np.float32))}), schema)
    first, second = (codec.decode(bytearray(data), schema)["w"].values for _ in range(2))

    first += 1

    assert second.tolist() == [1.0, 1.0, 1.0]
    assert first.flags.aligned


def test_the_order_of_an_update_does_not_matter(sample):
    turned = codec.Update(dict([*sample.update.items()][::-1]), round=sample.update.round)

    assert codec.encode(turned, sample.schema, sample.formats, sample.base) == sample.encode()


def test_a_base_may_be_an_update_and_hold_more(sample):
    data = sample.encode()

    assert codec.encode(sample.update, sample.schema, sample.formats, sample.update) != data
    assert codec.decode(data, sample.schema, sample.update) == sample.update


def test_a_base_with_another_support_is_not_referred_to(sample):
    other = {"signs": Support.random((2, 9), 0.5, seed=4)}

    data = codec.encode(sample.update, sample.schema, sample.formats, other)

    assert codec.decode(data, sample.schema) == sample.update


@pytest.mark.parametrize("shape", [(), (0,), (7,), (63, 65), (8, 4, 3, 3)], ids=str)
@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
def test_supports_alone_come_back(shape, density):
    support = Support.random(shape, density, seed=2)

    for mask in (support, support.to_numpy_mask(), support.to_mask()):
        assert codec.decode_support(codec.encode_support(mask), shape) == support


@pytest.mark.parametrize("density", [0.0, 1.0])
def test_uniform_spans_send_no_bitmap(density):
    assert len(codec.encode_support(Support.random((999, 999), density))) < 600
