"""Why a message is refused: one reason a failure."""

from __future__ import annotations

import enum

from sparsefl import _codec


class CodecReason(enum.Enum):
    """What is wrong with a message. FORMAT.md says which check gives which reason.

    The numbers are those of ``Reason`` in csrc/codec/format.h.

    Attributes:
        meaning: The reason as a sentence.
    """

    meaning: str

    def __new__(cls, number: int, meaning: str) -> CodecReason:
        """Makes a member of a number and a sentence."""
        member = object.__new__(cls)
        member._value_ = number
        member.meaning = meaning
        return member

    TRUNCATED = 1, "Shorter than a header, or than the length that its header states."
    MAGIC = 2, "Does not begin with the magic bytes: not a message of this format."
    VERSION = 3, "Of a major version that this decoder does not read."
    FLAGS = 4, "An unknown critical flag is set."
    PROFILE = 5, "Of a profile (set of coders) that this decoder does not have."
    LENGTH = 6, "Longer than the length that its header states."
    TABLES = 7, "Descriptors and directory are larger than the message."
    HEADER_CHECKSUM = 8, "The checksum of header, descriptors and directory does not match."
    RESERVED = 9, "A reserved field is not zero."
    SCHEMA = 10, "Written for another schema than the receiver's."
    ORDINAL = 11, "Tensor ordinals do not increase strictly, or exceed the schema."
    SUPPORT_MODE = 12, "A support mode that this decoder does not have."
    VALUE_MODE = 13, "A value mode that this decoder does not have."
    CODER = 14, "A coder that this decoder or the message's profile does not have."
    COMBINATION = 15, "Support mode, value mode and the tensor's dtype do not go together."
    SPAN = 16, "The span of the chunks is outside the range that the format allows."
    SCALE = 17, "A scale is not finite, is negative, is missing, or is there where none belongs."
    COUNT = (
        18,
        "A number of kept values exceeds its tensor or span, or the chunks' do not add up to it.",
    )
    CHUNK_COUNT = 19, "The number of chunks is not the one that the schema and the spans give."
    SECTION_LENGTH = 20, "A section's length is not the one that its mode and count give."
    COVERAGE = 21, "The chunks do not cover the message exactly."
    BASE_FIELD = 22, "The base fingerprint is there without a shared support, or missing with one."
    BASE_MISSING = (
        23,
        "Refers to the receiver's supports or signs, and none was given for a tensor that does.",
    )
    BASE_MISMATCH = 24, "Refers to other supports or signs than those given as the base."
    CHUNK_CHECKSUM = 25, "The checksum of a chunk does not match."
    BITMAP = 26, "A support's bitmap does not hold as many positions as stated."
    PADDING = 27, "Bits or bytes that fill a section up are not zero."
    VALUE = 28, "A value is not finite, or a bool is neither 0 nor 1."
    CONTENT = (
        29,
        "Sound, but not what the function reads: decode_support takes a support alone, an "
        "Accumulator values or signs on the supports that it was given.",
    )
    BLOCK = 30, "The size of blocks with a scale is outside the range that the format allows."
    CODE = 31, "A code stands for something else than its chunk states, or runs past its end."


class CodecError(ValueError):
    """A message was refused; ``reason`` says why.

    Attributes:
        reason: What is wrong.
        where: Which of the message's tensors it concerns, counted from 0, or None for the message.
    """

    def __init__(self, reason: CodecReason, where: int | None = None) -> None:
        """Args: see the attributes."""
        super().__init__(reason, where)
        self.reason = reason
        self.where = where

    def __str__(self) -> str:
        """The reason and what it means; never text from the message."""
        place = "" if self.where is None else f" (tensor {self.where} of the message)"
        return f"message refused: {self.reason.name}{place}: {self.reason.meaning}"


_REASONS = {reason.value: reason for reason in CodecReason}


def refused(error: _codec.RefusedError) -> CodecError:
    """Returns what the compiled codec refused as the error that users see."""
    reason, where = error.args
    return CodecError(_REASONS[reason], where if where >= 0 else None)
