"""Table and plot of the results of benchmarks/serving.py, for docs/benchmarks.md and README."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib

from training import markdown

DOCUMENT = Path(__file__).parent.parent / "docs/benchmarks.md"
PLOT = DOCUMENT.with_name("benchmarks.png")
README = DOCUMENT.parents[1] / "README.md"
README_MARK = "speed, written by `make bench`"
MARK = "servers, written by `make bench`"
COMPARED = ("FastAPI + PyTorch", "LitServe + PyTorch", "FastAPI + OpenVINO", "LitServe + OpenVINO")
OURS = "#c2410c"
MUTED = ("#9ca3af", "#4b5563", "#93c5fd", "#3b82f6", "#86a386", "#b7a27a")
MARKERS = ("s", "s", "^", "^", "D", "v")


def write_report(result: dict[str, Any]) -> None:
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    rounds = "1 round" if result["rounds"] == 1 else f"{result['rounds']} rounds"
    text = f"""\
Medians of {rounds} on {result["machine"]}; {versions}. Throughput in photos/s;
brackets show the lowest and highest of the rounds. "12 MP" is 12-megapixel photos from 4 clients.

{throughput_table(result)}

Latency of small photos at 1 and at 16 clients, errors of all loads, memory, and start-up time:

{latency_table(result)}

{ratios(result)}"""
    markdown.write_between_marks(DOCUMENT, MARK, markdown.wrapped(text))
    markdown.write_between_marks(README, README_MARK, markdown.wrapped(about(result)))


def about(result: dict[str, Any]) -> str:
    """The text for README."""
    return f"{ratios(result)} Measured on {result['machine']}."


def throughput_table(result: dict[str, Any]) -> str:
    """Photos/s at each load, with their range; without a server all loads are alike."""
    loads = [load for load in result["peers"][result["ours"]] if load.isdigit()]
    head = [f"{load} client{'s' * (load != '1')}" for load in loads]
    rows = [
        [
            name,
            *(speed(row[load if load in row else "1"]) for load in loads),
            f"{row['12 MP']['photos_per_second']:.1f}",
        ]
        for name, row in result["peers"].items()
    ]
    return markdown.table(["", *head, "12 MP"], rows)


def speed(measured: dict[str, float]) -> str:
    median, lowest, highest = (measured[key] for key in ("photos_per_second", "lowest", "highest"))
    return f"{median:.0f} ({lowest:.0f}–{highest:.0f})"


def latency_table(result: dict[str, Any]) -> str:
    rows = [
        [
            name,
            f"{row['1']['p50']:.1f} ms",
            *(f"{row['16'][quantile]:.0f} ms" for quantile in ("p50", "p95", "p99")),
            f"{sum(load['errors'] for load in row.values() if 'errors' in load):.0f}",
            f"{row['memory']['megabytes']:.0f}",
            f"{row['start']['seconds']:.1f}",
        ]
        for name, row in result["peers"].items()
        if name != result["limit"]
    ]
    return markdown.table(
        ["", "p50 at 1", "p50 at 16", "p95 at 16", "p99 at 16", "errors", "MB", "s to ready"], rows
    )


def ratios(result: dict[str, Any]) -> str:
    """Our throughput and latency relative to other servers and to no server."""
    peers = result["peers"]
    ours, limit = peers[result["ours"]], peers[result["limit"]]
    rows = []
    for name in COMPARED:
        other = peers[name]
        throughput, large = (
            ours[load]["photos_per_second"] / other[load]["photos_per_second"]
            for load in ("16", "12 MP")
        )
        latency = ours["1"]["p50"] / other["1"]["p50"]
        rows.append([name, f"**{throughput:.1f}×**", f"{latency:.2f}×", f"{large:.1f}×"])
    head = ["catsdogs compared with", "throughput, 16 clients"]
    head += ["median latency, 1 client (lower is better)", "throughput, 12-megapixel photos"]
    share = ours["16"]["photos_per_second"] / limit["1"]["photos_per_second"]
    return (
        f"{markdown.table(head, rows)}\n\n"
        f"All requests to catsdogs go through its gateway. At 16 clients it reaches "
        f"{markdown.percent(share, 0)} of the throughput that decoding and inference alone reach "
        f"on the same cores."
    )


def draw(result: dict[str, Any]) -> None:
    """Plot throughput against clients and median latency against throughput, ours in colour."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams["font.size"] = 13
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5.4), layout="constrained")
    loads = [load for load in result["peers"][result["ours"]] if load.isdigit()]
    styles = cycle(zip(MUTED, MARKERS, strict=True))
    for name, row in result["peers"].items():
        if name == result["limit"]:
            speed = row["1"]["photos_per_second"]
            left.axhline(speed, color="grey", linestyle=":", label="no server")
            continue
        style: dict[str, Any] = {"color": OURS, "marker": "o", "linewidth": 4, "zorder": 3}
        if name != result["ours"]:
            colour, marker = next(styles)
            style = {"color": colour, "marker": marker, "linewidth": 1.5}
        speeds = [row[load]["photos_per_second"] for load in loads]
        latencies = [row[load]["p50"] for load in loads]
        left.plot([int(load) for load in loads], speeds, label=name.strip("*"), **style)
        right.plot(speeds, latencies, **style)
    left.set(xscale="log", xlabel="clients", ylabel="throughput, photos/s", ylim=(0, None))
    left.set_xticks([int(load) for load in loads], loads)
    left.minorticks_off()
    right.set(yscale="log", xlabel="throughput, photos/s", ylabel="median latency, ms")
    right.yaxis.set_major_formatter("{x:g}")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(PLOT, dpi=90)
    plt.close(figure)
