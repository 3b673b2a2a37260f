"""Tables as markdown, and their places in a text."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

_PLACE = re.compile(r"<!-- (\w+) -->\n(.*?)<!-- /(\w+) -->", re.DOTALL)


def fill(text: str, tables: Mapping[str, str]) -> str:
    """Replace what stands between the markers ``<!-- NAME -->`` and ``<!-- /NAME -->``.

    Raises:
        ValueError: if a marker has no end, or names no table.
    """

    def filled(place: re.Match[str]) -> str:
        name, _, end = place.groups()
        if name != end:
            raise ValueError(f"the marker {name} ends as {end}")
        if name not in tables:
            raise ValueError(f"there is no table {name}, only {', '.join(tables)}")
        return f"<!-- {name} -->\n{tables[name]}<!-- /{name} -->"

    result = _PLACE.sub(filled, text)
    left = re.search(r"<!-- (/?\w+) -->", _PLACE.sub("", text))
    if left:
        raise ValueError(f"the marker {left[1]} stands alone")
    return result


def names_of(text: str) -> list[str]:
    """List the tables that a text has markers for."""
    return [place[1] for place in _PLACE.finditer(text)]


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
