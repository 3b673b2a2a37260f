"""Tables as markdown, and their places in a text."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence


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


def markdown(
    head: Sequence[str], lines: Iterator[Sequence[str]], texts: Collection[str] = ()
) -> str:
    """Format a table.

    Args:
        head: Names of the columns.
        lines: Cells of each line.
        texts: Names of the columns, beside the first, that hold text; figures are put right.
    """
    rule = ["---", *("---" if name in texts else "---:" for name in head[1:])]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, rule, *lines))
