"""Tables as markdown, and their places in a text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence


def fill(text: str, tables: Mapping[str, str]) -> str:
    """Replace what stands between the markers ``<!-- NAME -->`` and ``<!-- /NAME -->``.

    Raises:
        ValueError: if a table has no markers.
    """
    for name, table_text in tables.items():
        head, opening, rest = text.partition(f"<!-- {name} -->\n")
        _, closing, tail = rest.partition(f"<!-- /{name} -->")
        if not opening or not closing:
            raise ValueError(f"the text has no markers for the table {name}")
        text = head + opening + table_text + closing + tail
    return text


def markdown(head: Sequence[str], lines: Iterator[Sequence[str]]) -> str:
    """Format a table; the first column is text, the others are figures."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, rule, *lines))
