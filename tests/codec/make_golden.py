"""Writes sparsefl/codec/golden: messages as files, and what they say as JSON, for other decoders.

Run it where the format changed: ``make corpus``. test_golden.py reads the files, and nothing here.
"""

import json
import pathlib

import numpy as np
from conftest import Forgery, Sample, coded_sample, plain_sample
from test_coded_refusals import CASES as CODED_CASES
from test_refusals import CASES as PLAIN_CASES

from sparsefl import codec
from sparsefl.codec import CodecReason
from sparsefl.codec.base import known_tensors
from sparsefl.support import Support

GOLDEN = pathlib.Path(__file__).parents[2] / "sparsefl" / "codec" / "golden"
ABOUT = (
    "Messages of FORMAT.md and what they say. Bitmaps and signs are hex, bit i of them bit i mod 8 "
    "of byte i div 8, a sign's set where it is -1. Values are hex of little-endian elements of "
    "'dtype', those of kept positions in their order; of a 'scale' there are signs, "
    "of a 'step' words of 32 bits. Seeds and fingerprints are decimal. "
    "A refused message is 'file' cut to 'length' bytes, or with zeros "
    "behind it, with the bytes 'hex' from each place 'at' on: 'reason' is that of FORMAT.md, "
    "'number' that of sparsefl_format.h. 'rans': whether the encoder was allowed to use it; "
    "sparsefl's then makes the same bytes of the contents. 'base' of a message is its fingerprint."
)
FORMATS = ("fp32", "bf16", "int8", "int4", "ternary", "raw")


def drawn(shape, density, seed):
    """Returns positions that are kept with a probability each."""
    return Support.from_mask(np.random.default_rng(seed).random(shape) < density)


def rows_of_all_densities():
    """Returns rows whose densities are lognormal with a mean of 5 %."""
    random = np.random.default_rng(11)
    density = np.minimum(0.9, 0.05 * np.exp(1.5 * random.standard_normal(48) - 1.125))
    return Support.from_mask(random.random((48, 512)) < density[:, None])


def tiles():
    """Returns whole tiles of 4 x 8 positions."""
    kept = np.random.default_rng(12).random((24, 16)) < 0.3
    return Support.from_mask(np.repeat(np.repeat(kept, 4, axis=0), 8, axis=1))


def supports():
    """Supports of such kinds that each code of bit strings is the smallest of one."""
    # Two chunks: spans are whole groups of rows.
    far = Support.from_indices((1310, 100), [0, 17, 18, 40000, 127999, 128000, 130999])
    kept = {
        "few": drawn((40, 50), 0.02, 1),
        "some": drawn((80, 100), 0.15, 2),
        "quarter": drawn((80, 100), 0.28, 3),
        "half": drawn((40, 50), 0.5, 4),
        "most": drawn((40, 50), 0.97, 5),
        "all": Support.from_mask(np.ones((3, 5), np.bool_)),
        "none": Support.from_mask(np.zeros((3, 5), np.bool_)),
        "rows": rows_of_all_densities(),
        "tiles": tiles(),
        "far": far,
    }
    return Sample(
        codec.Schema({name: (support.shape, "bool") for name, support in kept.items()}),
        codec.Update({name: codec.SupportOnly(support) for name, support in kept.items()}),
        {},
        {},
    )


def changes():
    """Supports as their changes from those that the receiver has."""
    base = {"drops": drawn((60, 70), 0.5, 6), "both": drawn((60, 70), 0.3, 7)}
    random = np.random.default_rng(8)
    drops = base["drops"].to_numpy_mask() & (random.random((60, 70)) > 0.02)
    both = base["both"].to_numpy_mask() ^ (random.random((60, 70)) < 0.03)
    kept = {"drops": Support.from_mask(drops), "both": Support.from_mask(both)}
    return Sample(
        codec.Schema(dict.fromkeys(kept, ((60, 70), "float32"))),
        codec.Update({name: codec.SupportOnly(support) for name, support in kept.items()}, 4),
        {},
        base,
    )


def signs():
    """Signs that are even, rarely -1, and rarely others than the receiver's."""
    random = np.random.default_rng(9)
    kept = drawn((50, 60), 0.4, 9)
    even = np.where(random.random(kept.nnz) < 0.5, -1, 1).astype(np.int8)
    rare = np.where(random.random(kept.nnz) < 0.04, -1, 1).astype(np.int8)
    flips = np.where(random.random(kept.nnz) < 0.1, -even, even).astype(np.int8)
    return Sample(
        codec.Schema(dict.fromkeys(("even", "rare", "flips"), ((50, 60), "float32"))),
        codec.Update(
            {
                "even": codec.Signs(kept, even, scale=0.5),
                "rare": codec.Signs(kept, rare, scale=1.0),
                "flips": codec.Signs(kept, flips, scale=0.125),
            }
        ),
        {},
        {"flips": codec.Signs(kept, even)},
    )


def values():
    """Values of every mode."""
    random = np.random.default_rng(10)
    numbers = {name: random.standard_normal((10, 130)).astype(np.float32) for name in FORMATS[:5]}
    entries = {name: codec.Dense(values) for name, values in numbers.items()}
    others = {
        "float16": random.standard_normal(300).astype(np.float16),
        "float64": np.round(random.standard_normal(150), 2),
        "int64": np.arange(200, dtype=np.int64) - 100,
        "int32": random.integers(-9, 9, 100, dtype=np.int32),
        "int16": random.integers(-300, 300, 100, dtype=np.int16),
        "int8": np.zeros(100, np.int8),
        "uint8": random.integers(0, 256, 64, dtype=np.uint8),
        "bool": random.random(200) < 0.02,
    }
    dtypes = dict.fromkeys(numbers, ((10, 130), "float32"))
    for dtype, array in others.items():
        entries[f"raw_{dtype}"] = codec.Dense(array)
        dtypes[f"raw_{dtype}"] = (array.shape, dtype)
    formats = {name: name for name in numbers} | {"raw_float16": "raw", "raw_float64": "raw"}
    return Sample(codec.Schema(dtypes), codec.Update(entries), formats, {})


def classes():
    """Values of which whole stretches are zero, small or large: some sections have classes."""
    random = np.random.default_rng(14)
    rows = np.repeat([0.0, 0.0, 0.02, 0.3], (40, 22, 20, 5))[:, None]
    sizes = random.integers(-2, 3, (87, 95)) * (random.random((87, 95)) < rows)
    large = (2.0 ** random.integers(-9, -3, (87, 95))) * (rows > 0.1)
    numbers = {"int8": sizes / 8, "bf16": sizes + large, "small": sizes[:9]}
    return Sample(
        codec.Schema({name: (values.shape, "float32") for name, values in numbers.items()}),
        codec.Update({n: codec.Dense(v.astype(np.float32)) for n, v in numbers.items()}),
        {"int8": "int8", "bf16": "bf16", "small": "int8"},
        {},
    )


def modular():
    """Words whose sums modulo 2^32 are those of what they stand for."""
    kept = drawn((4, 6), 0.5, 13)
    numbers = np.arange(24, dtype=np.float32).reshape(4, 6) - 11.5
    return Sample(
        codec.Schema(dict.fromkeys(("dense", "shared"), ((4, 6), "float32"))),
        codec.Update(
            {
                "dense": codec.Modular.of(numbers, 2.0**-16),
                "shared": codec.Modular.of(numbers[kept.to_numpy_mask()], 0.1, kept),
            }
        ),
        {},
        {"shared": kept},
    )


def nothing():
    """A message of no tensor."""
    return Sample(codec.Schema({"w": ((3, 5), "float32")}), codec.Update({}, 1), {}, {})


def hexed(array):
    """Returns the elements of an array as hex."""
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes().hex()


def signs_hexed(signs):
    """Returns a bit a sign as hex."""
    return hexed(np.packbits(np.asarray(signs) < 0, bitorder="little"))


def described(entry, name, formats):
    """Returns what a message says about a tensor."""
    if isinstance(entry, codec.Regenerated):
        return {"seed": str(entry.seed)}
    support = getattr(entry, "support", None)
    said = {} if support is None else {"support": hexed(support.packed)}
    if isinstance(entry, codec.Modular):
        return said | {"words": hexed(entry.words), "step": float(entry.step)}
    if isinstance(entry, codec.Signs):
        return said | {"signs": signs_hexed(entry.signs), "scale": float(entry.scale)}
    if isinstance(entry, codec.SupportOnly):
        return said
    values = np.asarray(entry.values)
    mode = formats.get(name, "fp32" if values.dtype.kind == "f" else "raw")
    return said | {"format": mode, "dtype": str(values.dtype), "values": hexed(values)}


def contents(sample, update):
    """Returns what a message says and what its receiver needs to read it."""
    base = {}
    for name, known in known_tensors(sample.base, sample.schema).items():
        base[name] = {"support": hexed(known.support.packed)}
        if known.signs is not None:
            base[name]["signs"] = signs_hexed(known.signs)
    return {
        "schema": [[name, list(spec.shape), spec.dtype] for name, spec in sample.schema.items()],
        "schema_fingerprint": str(sample.schema.fingerprint),
        "base": base,
        "round": update.round,
        "tensors": {name: described(update[name], name, sample.formats) for name in update},
    }


def patches(before, after):
    """Returns the runs of bytes that are others."""
    length = len(after)
    before = np.frombuffer(before[:length].ljust(length, b"\0"), np.uint8)
    changed = np.flatnonzero(before != np.frombuffer(after, np.uint8))
    runs = np.split(changed, np.flatnonzero(np.diff(changed) > 4) + 1) if changed.size else []
    return [{"at": int(r[0]), "hex": after[r[0] : r[-1] + 1].hex()} for r in runs]


def refused(file, data, reason, change, seal=True):
    """Returns the entry of a refused message in the manifest."""
    forgery = change(Forgery(data))
    forged = forgery.sealed() if seal else forgery.unsealed()
    return {
        "file": file,
        "length": len(forged),
        "patches": patches(data, forged),
        "reason": reason.name,
        "number": reason.value,
    }


def main():
    """Writes messages and manifest."""
    GOLDEN.mkdir(exist_ok=True)
    for old in GOLDEN.iterdir():
        old.unlink()
    makers = {
        "modes": plain_sample,
        "coded": coded_sample,
        "supports": supports,
        "changes": changes,
        "signs": signs,
        "values": values,
        "classes": classes,
        "modular": modular,
        "nothing": nothing,
    }
    said, messages, files = {}, [], {}
    for name, make in makers.items():
        sample = make()
        for rans in (True, False) if name != "classes" else (True,):
            file = f"{name}.spfl" if rans else f"{name}_plain.spfl"
            arguments = sample.update, sample.schema, sample.formats, sample.base
            data = files[file] = codec.encode(*arguments, rans=rans)
            (GOLDEN / file).write_bytes(data)
            base = str(int.from_bytes(data[32:40], "little"))
            messages.append({"file": file, "contents": name, "rans": rans, "base": base})
        said[name] = contents(sample, codec.decode(data, sample.schema, sample.base))
    refusals = [
        refused(file, files[file], *case[1:])
        for file, cases in (("modes.spfl", PLAIN_CASES), ("coded.spfl", CODED_CASES))
        for case in cases
    ]
    assert {r["number"] for r in refusals} <= {reason.value for reason in CodecReason}
    manifest = {"about": ABOUT, "version": "1.1", "messages": messages, "contents": said}
    manifest["refused"] = refusals
    (GOLDEN / "manifest.json").write_text(json.dumps(manifest, indent=0) + "\n")


if __name__ == "__main__":
    main()
