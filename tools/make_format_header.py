"""Writes sparsefl/codec/sparsefl_format.h: the format's numbers for decoders in other languages.

They are read from csrc/codec, where the codec takes them from; a test compares. The one argument is
another file to write.
"""

import ast
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parents[1]
HEADER = ROOT / "sparsefl" / "codec" / "sparsefl_format.h"
SOURCES = ("format.h", "flat_code.h", "byte_model.h", "values.h")
ENUMS = (
    ("Profile", "Codes that a message may use."),
    ("SupportMode", "How a message says which positions are kept."),
    ("ValueMode", "How values stand in a message."),
    ("ScaleMode", "What shares a scale."),
    ("BitCoder", "Codes of bit strings."),
    ("ValueCoder", "How a value section stands; of signs, 0 or 1 + a bit coder."),
    ("ByteCoder", "Bits 0 and 1 of the head of a byte code."),
    ("Dtype", "Dtypes of a schema, as its fingerprint names them."),
    ("Reason", "Why a message is refused."),
)
INTRODUCTION = """\
/* The numbers of FORMAT.md, which lies beside this file and says what they mean. C99 and C++.
 * Written by tools/make_format_header.py. All fields are little-endian. */
#ifndef SPARSEFL_FORMAT_H
#define SPARSEFL_FORMAT_H
"""


def upper(name):
    """Returns kMinBlockLog2 as MIN_BLOCK_LOG2."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name.removeprefix("k")).upper()


def enum(text, name, comment):
    """Returns a C enum of a C++ one."""
    body = re.search(rf"enum class {name} : \w+ \{{(.*?)\}}", text, re.DOTALL)
    number = -1
    lines = []
    for enumerator in re.sub(r"//[^\n]*", "", body.group(1)).split(","):
        if not enumerator.strip():
            continue
        key, _, value = (part.strip() for part in enumerator.partition("="))
        number = int(value) if value else number + 1
        lines.append(f"  SPFL_{upper(name)}_{upper(key)} = {number},")
    lines[-1] = lines[-1].rstrip(",")
    return "\n".join([f"/* {comment} */", f"enum spfl_{upper(name).lower()} {{", *lines, "};"])


def constants(text):
    """Returns macros of the sizes, limits and offsets of format.h."""
    lines = []
    for declaration in re.finditer(r"^inline constexpr (\w+) ([^;\[]*);", text, re.MULTILINE):
        before = text[: declaration.start()]
        spaces = re.findall(r"^namespace (\w+) \{|^\}  // namespace (\w+)", before, re.MULTILINE)
        prefix = f"{spaces[-1][0].upper()}_" if spaces and spaces[-1][0] else ""
        for one in declaration.group(2).split(","):
            key, value = (part.strip() for part in one.split("="))
            shift = re.fullmatch(r"1u << (\d+)", value)
            number = 1 << int(shift.group(1)) if shift else int(value.rstrip("u"), 0)
            lines.append(f"#define SPFL_{prefix}{upper(key)} {number}u")
    return "\n".join(lines)


def header():
    """Returns the text of the header."""
    texts = [(ROOT / "csrc" / "codec" / name).read_text() for name in SOURCES]
    text = "\n".join(texts)
    magic = re.search(r"kMagic\[8\] = \{(.*?)\};", text).group(1)
    literals = [ast.literal_eval(part.strip()) for part in magic.split(",")]
    numbers = [ord(one) if isinstance(one, str) else one for one in literals]
    parts = [
        INTRODUCTION,
        "/* The first eight bytes of a message, as an initialiser. */",
        "#define SPFL_MAGIC {" + ", ".join(f"0x{number:02X}" for number in numbers) + "}",
        "",
        "/* Sizes and limits; the byte offsets of fields in header, descriptor and chunk entry. */",
        constants(texts[0].partition("constexpr uint8_t kMagic")[2]),
        "",
        "\n\n".join(enum(text, name, comment) for name, comment in ENUMS),
        "",
        "#endif",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    (pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HEADER).write_text(header())
