"""Bytes on the wire: messages of :mod:`sparsefl.codec` that hold a layer, or the whole network."""

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from sparsefl import codec
from sparsefl.nn import SignConv2d, SignLinear, SparseConv2d, SparseLinear
from sparsefl.support import Support

_SPARSE = (SparseLinear, SparseConv2d)
_SIGN = (SignLinear, SignConv2d)


def entries_of(model: nn.Module) -> dict[str, codec.Entry]:
    """Return what a client sends of a trained model, by the names of the dense model.

    Kept values of sparse layers, one bit a kept weight of sign layers, everything else dense,
    buffers included.
    """
    entries: dict[str, codec.Entry] = {}
    hidden: set[str] = set()
    for name, layer in model.named_modules(remove_duplicate=False):
        prefix = f"{name}." if name else ""
        if isinstance(layer, _SPARSE):
            values = layer.row_major(layer.values.detach())
            entries[f"{prefix}weight"] = codec.Sparse(layer.support, values)
        elif isinstance(layer, _SIGN):
            entries[f"{prefix}weight"] = codec.Signs(layer.support, layer.signs())
        else:
            continue
        kept = set(layer.state_dict()) - {"bias"}
        hidden |= {f"{prefix}{key}" for key in kept}
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor) and name not in hidden:
            entries[name] = codec.Dense(tensor)
    return entries


def message_bytes(entries: Mapping[str, codec.Entry], schema: codec.Schema) -> int:
    """Return the length of the encoded message; the receiver has the supports since set-up."""
    update = codec.Update(entries, round=1)
    return len(codec.encode(update, schema, base=supports_of(entries)))


def layer_bytes(
    entries: Mapping[str, codec.Entry], layers: Iterable[str], schema: codec.Schema
) -> int:
    """Return by how much the named layers lengthen a message."""
    prefixes = tuple(f"{name}." if name else "" for name in layers)
    own = {
        name: entry
        for name, entry in entries.items()
        if any(name.startswith(p) and "." not in name[len(p) :] for p in prefixes)
    }
    return message_bytes(own, schema) - message_bytes({}, schema)


def setup_bytes(supports: Iterable[Support]) -> int:
    """Return the bytes of the supports, which are sent once and not each round."""
    return sum(len(codec.encode_support(support)) for support in supports)


def supports_of(entries: Mapping[str, codec.Entry]) -> dict[str, Support]:
    """Return the supports that the entries cover."""
    return {
        name: entry.support
        for name, entry in entries.items()
        if isinstance(entry, codec.Sparse | codec.Signs)
    }
