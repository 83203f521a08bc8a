"""Write Markdown: tables, wrapped paragraphs, and text between two marks."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from files.atomic import write_atomically


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def wrapped(text: str) -> str:
    """`text` with paragraphs wrapped at 100 columns; tables, lists and headings stay."""
    blocks = text.split("\n\n")
    return "\n\n".join(
        block
        if block.startswith(("|", "#", "1. ", "- "))
        else textwrap.fill(block, 100, break_long_words=False, break_on_hyphens=False)
        for block in blocks
    )


def write_between_marks(path: Path, name: str, text: str) -> bool:
    """Replace the text between the marks <!-- NAME --> and <!-- end of NAME --> in `path`.

    Return whether it was written: a file that is missing or lacks the marks stays as it is.
    """
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if not path.is_file() or start not in (whole := path.read_text()) or end not in whole:
        return False
    before, after = whole.split(start)[0], whole.split(end)[1]
    filled = f"{before}{start}\n\n{text.strip()}\n\n{end}{after}"
    write_atomically(path, lambda partial: partial.write_text(filled))
    return True
