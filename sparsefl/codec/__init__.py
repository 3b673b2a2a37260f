"""What clients and servers send: ``Update`` to bytes and back, checked. Needs numpy alone.

``FORMAT.md`` beside this file is the normative description of the bytes.
"""

from sparsefl.codec.accumulator import Accumulator, feedback
from sparsefl.codec.base import Base
from sparsefl.codec.bounds import bound_bytes
from sparsefl.codec.errors import CodecError, CodecReason
from sparsefl.codec.plan import FormatName, ValueFormat
from sparsefl.codec.rank import add_at, compress_bits, expand_bits, gather
from sparsefl.codec.rounding import Rounding, Stochastic
from sparsefl.codec.schema import Schema, TensorSpec
from sparsefl.codec.signs import pack_signs, unpack_signs
from sparsefl.codec.summary import (
    Header,
    Outline,
    Summary,
    TensorOutline,
    TensorSummary,
    outline,
    summarise,
)
from sparsefl.codec.top_k import top_k, top_k_of_all
from sparsefl.codec.update import (
    Dense,
    Entry,
    Modular,
    Regenerated,
    Signs,
    Sparse,
    SupportOnly,
    Update,
)
from sparsefl.codec.votes import majority_vote, weighted_mean
from sparsefl.codec.wire import decode, decode_support, encode, encode_support

__all__ = [
    "Accumulator",
    "Base",
    "CodecError",
    "CodecReason",
    "Dense",
    "Entry",
    "FormatName",
    "Header",
    "Modular",
    "Outline",
    "Regenerated",
    "Rounding",
    "Schema",
    "Signs",
    "Sparse",
    "Stochastic",
    "Summary",
    "SupportOnly",
    "TensorOutline",
    "TensorSpec",
    "TensorSummary",
    "Update",
    "ValueFormat",
    "add_at",
    "bound_bytes",
    "compress_bits",
    "decode",
    "decode_support",
    "encode",
    "encode_support",
    "expand_bits",
    "feedback",
    "gather",
    "majority_vote",
    "outline",
    "pack_signs",
    "summarise",
    "top_k",
    "top_k_of_all",
    "unpack_signs",
    "weighted_mean",
]
