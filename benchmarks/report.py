"""Table and plot of what benchmarks/serving.py measured, for docs/benchmarks.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

from training import markdown

DOCUMENT = Path(__file__).parent.parent / "docs/benchmarks.md"
PLOT = DOCUMENT.with_name("benchmarks.png")
README = DOCUMENT.parents[1] / "README.md"
README_MARK = "speed, written by `make bench`"
MARK = "servers, written by `make bench`"


def write_report(result: dict[str, Any]) -> None:
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    text = f"""\
Medians of {result["rounds"]} rounds on {result["machine"]}; {versions}. In brackets the lowest and
highest photos/s of the rounds.

{table(result)}

{ratios(result)}"""
    markdown.write_between_marks(DOCUMENT, MARK, markdown.wrapped(text))
    markdown.write_between_marks(README, README_MARK, markdown.wrapped(about(result)))


def about(result: dict[str, Any]) -> str:
    """For the README."""
    return f"{ratios(result)} ({result['machine']}.)"


def table(result: dict[str, Any]) -> str:
    """A row for each peer: photos/s at each number of clients, latency, memory, start."""
    loads = [load for load in result["peers"][result["ours"]] if load.isdigit()]
    head = [f"photos/s at {load} client{'s' * (load != '1')}" for load in loads]
    head += ["p50 at 1", "p50 / p95 / p99 at 16", "12 MP photos/s", "errors", "MB", "s to ready"]
    rows = [[name, *cells(row, loads)] for name, row in result["peers"].items()]
    return markdown.table(["", *head], rows)


def cells(row: dict[str, dict[str, float]], loads: list[str]) -> list[str]:
    if "16" not in row:  # no server: photos/s alone
        whole = f"{row['1']['photos_per_second']:.0f}"
        large = f"{row['12 MP']['photos_per_second']:.1f}"
        return [*[whole] * len(loads), "", "", large, "", "", ""]
    speeds = [
        f"{row[load]['photos_per_second']:.0f} "
        f"({row[load]['lowest']:.0f}–{row[load]['highest']:.0f})"
        for load in loads
    ]
    at_16 = row["16"]
    errors = sum(row[load]["errors"] for load in (*loads, "12 MP"))
    return [
        *speeds,
        f"{row['1']['p50']:.1f} ms",
        f"{at_16['p50']:.0f} / {at_16['p95']:.0f} / {at_16['p99']:.0f} ms",
        f"{row['12 MP']['photos_per_second']:.1f}",
        f"{errors:.0f}",
        f"{row['memory']['megabytes']:.0f}",
        f"{row['start']['seconds']:.1f}",
    ]


def ratios(result: dict[str, Any]) -> str:
    """What the table comes to."""
    peers = result["peers"]
    ours, first, limit = (peers[result[key]] for key in ("ours", "first", "limit"))

    def speed(row: dict[str, dict[str, float]], load: str) -> float:
        return row[load]["photos_per_second"]

    photos = speed(ours, "16") / speed(first, "16")
    latency = ours["1"]["p50"] / first["1"]["p50"]
    large = speed(ours, "12 MP") / speed(first, "12 MP")
    share = speed(ours, "16") / speed(limit, "1")
    return (
        f"Beside {result['first']} with PyTorch: **{photos:.1f} times the photos/s** at 16 "
        f"clients, {latency:.2f} times the median latency at 1 client, {large:.1f} times the "
        f"photos/s of 12 megapixels; and {share:.0%} of what the same cores reach without a server."
    )


def draw(result: dict[str, Any]) -> None:
    """Photos/s against clients, and median latency against photos/s, of each server."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    loads = [load for load in result["peers"][result["ours"]] if load.isdigit()]
    for name, row in result["peers"].items():
        if name == result["limit"]:
            speed = row["1"]["photos_per_second"]
            left.axhline(speed, color="grey", linestyle=":", label="no server")
            continue
        ours = name == result["ours"]
        style = {"linewidth": 3 if ours else 1.5, "marker": "o", "label": name.strip("*")}
        speeds = [row[load]["photos_per_second"] for load in loads]
        left.plot([int(load) for load in loads], speeds, **style)
        right.plot(speeds, [row[load]["p50"] for load in loads], **style)
    left.set(xscale="log", xlabel="clients", ylabel="photos/s", ylim=(0, None))
    left.set_xticks([int(load) for load in loads], loads)
    left.minorticks_off()
    right.set(yscale="log", xlabel="photos/s", ylabel="median latency, ms")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(PLOT, dpi=90)
    plt.close(figure)
