"""The sources of photos: sources.csv, and the section of the model card about them."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.dataset import FOREIGN
from training.markdown import table

TABLE = Path(__file__).with_name("sources.csv")
IN_TABLE = 12  # sources of a training run in the table; the others are listed below it


@dataclass(frozen=True)
class Source:
    """One row of sources.csv."""

    source: str  # as in photos.csv
    repository: str
    commit: str  # in full; "" if unknown
    licence: str
    photos_of: str  # the original data

    @property
    def place(self) -> str:
        return f"{self.repository}@{self.commit[:8]}" if self.commit else self.repository


def stages_of(card: dict[str, Any]) -> list[dict[str, Any]]:
    """The training runs in order; each started from the weights of the previous one."""
    stages = [card["training"]]
    while before := stages[0].get("before"):
        stages.insert(0, before)
    return stages


def known_sources(names: Collection[str]) -> dict[str, Source]:
    """The rows of sources.csv with these `names`."""
    with TABLE.open(newline="") as file:
        rows = [Source(**row) for row in csv.DictReader(file)]
    found = {row.source: row for row in rows if row.source in names}
    # Any folder may be called `photos`; only among other known sources it is the Kaggle one.
    return {} if list(found) == ["photos"] else found


def photos(card: dict[str, Any]) -> str:
    """The section on the sources of the training photos; "" if they were not counted (1.1)."""
    runs: dict[str, dict[str, Any]] = {}
    for run in reversed(stages_of(card)):  # runs on the same photos have the same sources
        runs.setdefault(run["photos_sha256"], run)
    counts = [run.get("sources", {}) for run in runs.values()]
    if not any(counts):
        return ""
    parts = ["## Photos"]
    for number, run in enumerate(runs.values()):
        parts += trained_on(run, "Before that, the" if number else "The")
    parts += validated_on(card["metrics"].get(FOREIGN, {}).get("sources", {}))
    if any(map(known_sources, counts)):
        parts.append(
            'Numbers in brackets are photos. The licence "none" means that neither the repository '
            "nor the original data state one. `training/sources.csv` has the commits in full."
        )
    return "\n\n".join(parts)


def trained_on(run: dict[str, Any], start: str) -> list[str]:
    """Paragraphs on the sources of one training run, the largest ones in a table."""
    which = f"{start} {run['photos']:,} training photos ({', '.join(map(plain, run['classes']))})"
    if "sources" not in run:
        return [f"{which} came from sources that the run did not record."]
    counts = dict(sorted(run["sources"].items(), key=lambda item: (-item[1], item[0])))
    known = known_sources(counts)
    number = "one source" if len(counts) == 1 else f"{len(counts)} sources"
    shown = [name for name in counts if name in known][:IN_TABLE]
    others = {name: count for name, count in counts.items() if name not in shown}
    if not shown:
        return [f"{which} came from {number}: {listed(others, known)}."]
    rows = [row_of(known[name], counts[name]) for name in shown]
    head = ["source", "repository@commit", "photos of", "licence", "photos"]
    return [f"{which} came from {number}:", table(head, rows), *by_licence(others, known)]


def row_of(source: Source, count: int) -> list[str]:
    return [source.source, source.place, source.photos_of, source.licence, f"{count:,}"]


def by_licence(counts: dict[str, int], known: dict[str, Source]) -> list[str]:
    """A paragraph for each licence of the sources that are not in the table."""
    groups: dict[str, dict[str, int]] = defaultdict(dict)
    for name, count in counts.items():
        licence = known[name].licence if name in known else "unknown"
        groups[licence][name] = count
    return [
        f"Licence {licence}, {len(group)} more source{'s' * (len(group) > 1)}: "
        f"{listed(group, known)}."
        for licence, group in groups.items()
    ]


def validated_on(metrics: dict[str, dict[str, Any]]) -> list[str]:
    """A paragraph on the known sources that were used for validation only."""
    rows = [
        f"{row.source} ({row.place}; {row.photos_of}; licence {row.licence}; "
        f"{metrics[name]['photos']:,} photos)"
        for name, row in known_sources(metrics).items()
    ]
    return [f"Used for validation only: {', '.join(rows)}."] if rows else []


def listed(counts: dict[str, int], known: dict[str, Source]) -> str:
    names = {name: known[name].place if name in known else plain(name) for name in counts}
    return ", ".join(f"{names[name]} ({count:,})" for name, count in counts.items())


def plain(name: str) -> str:
    """A folder or file name for Markdown; Linux allows names that are not UTF-8."""
    return " ".join(name.encode(errors="replace").decode().replace("|", r"\|").split())
