"""Columns of text as wide as a terminal, for every command that prints a table."""

from collections.abc import Sequence

GAP = "  "


def align(columns: Sequence[Sequence[str]], width: int) -> list[str]:
    """Align columns of text, the first to the left and the others to the right.

    Args:
        columns: Head and cells of each, all of one length.
        width: Characters of a line; columns that do not fit follow below, after the first again.
    """
    widths = [max(map(len, column)) for column in columns]
    blocks: list[list[int]] = [[]]
    used = len(GAP) + widths[0]
    for number, needed in list(enumerate(widths))[1:]:
        if blocks[-1] and used + len(GAP) + needed > width:
            blocks.append([])
            used = len(GAP) + widths[0]
        blocks[-1].append(number)
        used += len(GAP) + needed
    lines = []
    for block in blocks:
        for line in range(len(columns[0])):
            cells = [columns[0][line].ljust(widths[0])]
            cells += [columns[number][line].rjust(widths[number]) for number in block]
            lines.append((GAP + GAP.join(cells)).rstrip())
    return lines
