"""What clients and servers send: ``Update`` to bytes and back, checked. Needs numpy alone.

``FORMAT.md`` beside this file is the normative description of the bytes.
"""

from sparsefl.codec.base import Base
from sparsefl.codec.bounds import bound_bytes
from sparsefl.codec.errors import CodecError, CodecReason
from sparsefl.codec.plan import FormatName, ValueFormat
from sparsefl.codec.rank import compress_bits, expand_bits
from sparsefl.codec.schema import Schema, TensorSpec
from sparsefl.codec.summary import Header, Summary, TensorSummary, summarise
from sparsefl.codec.update import Dense, Entry, Regenerated, Signs, Sparse, SupportOnly, Update
from sparsefl.codec.wire import decode, decode_support, encode, encode_support

__all__ = [
    "Base",
    "CodecError",
    "CodecReason",
    "Dense",
    "Entry",
    "FormatName",
    "Header",
    "Regenerated",
    "Schema",
    "Signs",
    "Sparse",
    "Summary",
    "SupportOnly",
    "TensorSpec",
    "TensorSummary",
    "Update",
    "ValueFormat",
    "bound_bytes",
    "compress_bits",
    "decode",
    "decode_support",
    "encode",
    "encode_support",
    "expand_bits",
    "summarise",
]
