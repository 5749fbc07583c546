"""Tables on the terminal."""

from collections.abc import Sequence


def print_table(lines: Sequence[Sequence[str]]) -> None:
    """Every column as wide as its longest text."""
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
