import numpy as np
import pytest
import torch

from sparsefl import codec
from sparsefl.fl.pool import Pool
from sparsefl.support import Support

SCHEMA = codec.Schema({"w": ((4, 5), "float32"), "b": ((3,), "float32"), "batches": ((), "int64")})
SUPPORT = Support.random((4, 5), 0.4, seed=1)
SHARED = {"w": SUPPORT}


def update(seed):
    random = np.random.default_rng(seed)
    signs = random.choice([-1, 1], SUPPORT.nnz).astype(np.int8)
    return codec.Update(
        {
            "w": codec.Signs(SUPPORT, signs, float(random.random(dtype=np.float32))),
            "b": codec.Dense(random.standard_normal(3).astype(np.float32)),
            "batches": codec.Dense(np.array(seed, np.int64)),
        }
    )


def message_of(sent, **options):
    return codec.encode(sent, SCHEMA, base=SHARED, **options)


def filled(weights):
    pool = Pool(SCHEMA, SHARED, SCHEMA)
    for seed, weight in enumerate(weights):
        sent = update(seed)
        pool.add(message_of(sent), weight, SHARED)
    return pool


def test_the_mean_is_of_values_and_of_scaled_signs():
    weights = [7, 1, 12]
    mean = filled(weights).mean()
    shares = np.array(weights) / 20
    sent = [update(seed) for seed in range(3)]
    w = sum(
        share * one["w"].scale * one["w"].signs for share, one in zip(shares, sent, strict=True)
    )
    b = sum(
        share * one["b"].values.astype(np.float64) for share, one in zip(shares, sent, strict=True)
    )
    assert mean.clients == 3
    assert {tensor.dtype for tensor in mean.tensors.values()} == {torch.float64}
    np.testing.assert_allclose(mean.tensors["w"].numpy(), w, rtol=1e-12)
    np.testing.assert_allclose(mean.tensors["b"].numpy(), b, rtol=1e-12)
    assert mean.tensors["batches"].item() == pytest.approx(shares @ np.arange(3))


def test_one_client_is_its_own_mean():
    mean = filled([11]).mean()
    assert np.array_equal(mean.tensors["b"].numpy().astype(np.float32), update(0)["b"].values)


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        ("flipped bit", codec.CodecError, "checksum"),
        ("missing tensor", ValueError, "the update lacks b"),
        ("other support", codec.CodecError, "content"),
    ],
)
def test_a_refused_message_changes_nothing(damage, error, says):
    pool, sent = filled([2, 3]), update(5)
    before = {name: tensor.clone() for name, tensor in pool.mean().tensors.items()}
    message = bytearray(message_of(sent))
    if damage == "flipped bit":
        message[-1] ^= 1
    elif damage == "missing tensor":
        sent = codec.Update({name: entry for name, entry in sent.items() if name != "b"})
        message = bytearray(message_of(sent))
    else:
        other = Support.random((4, 5), 0.4, seed=2)
        sent = codec.Update({**sent, "w": codec.Signs(other, sent["w"].signs, 1.0)})
        message = bytearray(message_of(sent))
    with pytest.raises(error, match=f"(?i){says}"):
        pool.add(bytes(message), 1.0, SHARED)
    assert pool.clients == 2
    for name, tensor in pool.mean().tensors.items():
        assert torch.equal(tensor, before[name])


def test_gathered_tensors_are_kept_as_they_come_and_need_not_come():
    pool = Pool(SCHEMA, SHARED, SCHEMA, gathered={"b"})
    sent = [update(0), codec.Update({n: e for n, e in update(1).items() if n != "b"}), update(2)]
    for one in sent:
        pool.add(message_of(one), 3.0, SHARED)
    mean = pool.mean()
    assert set(mean.tensors) == {"w", "batches"}
    assert list(mean.gathered["b"]) == [sent[0]["b"], sent[2]["b"]]
    with pytest.raises(codec.CodecError):
        pool.add(message_of(sent[0])[:-1], 1.0, SHARED)
    assert len(pool.mean().gathered["b"]) == 2
