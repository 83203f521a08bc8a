"""Write the table of values in the chart's README from values.yaml and its comments.

python -m tests.chart.values_table    # `make manifests` runs it
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator

import yaml

from testing.repository import REPOSITORY
from training.markdown import write_between_marks

CHART = REPOSITORY / "helm/catsdogs"
MARK = "values, written by `make manifests`"


def main() -> int:
    write_between_marks(CHART / "README.md", MARK, table())
    return 0


def table() -> str:
    # Two columns, since names and defaults alone are nearly as wide as a page.
    rows = [f"| `{name}` | {'. '.join(filter(None, rest))} |" for name, *rest in values()]
    return "\n".join(["| value | default and meaning |", "|---|---|", *rows])


def values() -> Iterator[tuple[str, str, str]]:
    """Name, default and comment of each value."""
    comments = dict(commented())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    yield from leaves(defaults, "", comments)


def leaves(
    value: dict[str, object], prefix: str, comments: dict[str, str]
) -> Iterator[tuple[str, str, str]]:
    for key, inner in value.items():
        name = f"{prefix}{key}"
        if isinstance(inner, dict) and inner and name.count(".") < 2 and key != "labels":
            if words := comments.get(name):
                yield name, "", words
            yield from leaves(inner, f"{name}.", comments)
        else:
            default = json.dumps(inner).replace("|", "\\|")
            yield name, "" if inner in ("", {}, []) else f"`{default}`", comments.get(name, "")


def commented() -> Iterator[tuple[str, str]]:
    """Names with the comments above them that begin with `# --`."""
    path: list[str] = []
    words: list[str] = []
    for line in (CHART / "values.yaml").read_text().splitlines():
        comment = re.fullmatch(r"\s*# (-- )?(.*)", line)
        key = re.match(r"(\s*)([A-Za-z]\w*):", line)
        if comment:
            words = [comment[2]] if comment[1] else [*words, comment[2]]
        elif key:
            path = [*path[: len(key[1]) // 2], key[2]]
            if words:
                yield ".".join(path), " ".join(words)
            words = []


if __name__ == "__main__":
    sys.exit(main())
