"""The fidelity benchmark's rows as a table and as a plot."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from stmd_sdk.evaluation.statistics import spread

__all__ = ["STEPS", "Row", "markdown", "plot"]

STEPS = (1, 2, 4, 8, 16)
Row = dict[str, Any]  # as JSON holds it


def _at_each_time(rows: list[Row], kernel: str) -> str:
    """The variance ratio over t, of the rows that have this certificate."""
    columns = zip(*(row[kernel]["variance ratio"].values() for row in rows if kernel in row), strict=True)
    return ", ".join(spread(list(column), 2) for column in columns)


def _worst(rows: list[Row], measure: str) -> str:
    largest = [max(row["kernel M=1"][measure].values()) for row in rows if "kernel M=1" in row]
    return spread(largest, 3) if largest else ""


def _over_exact(rows: list[Row], n: int) -> str:
    distances = [row["distance"][str(n)] for row in rows]
    return spread([one["value"] / one["floor"] for one in distances], 1)


def markdown(rows: list[Row]) -> str:
    """One table a problem, as the docs have it: means over seeds, and their standard deviations."""
    times = next((", ".join(row["kernel M=1"]["variance ratio"]) for row in rows if "kernel M=1" in row), "none")
    headings = (
        "method",
        f"variance ratio at t = {times}",
        "mode mass",
        "TARP",
        "M = 2: variance ratio",
        f"distance at N = {', '.join(map(str, STEPS))}",
        "CPU s",
    )
    lines = list[str]()
    for problem in dict.fromkeys(row["problem"] for row in rows):
        here = [row for row in rows if row["problem"] == problem]
        lines += [f"**{problem}**", "", f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
        for method in dict.fromkeys(row["method"] for row in here):
            group = [row for row in here if row["method"] == method]
            seconds = [row["cpu_seconds"] for row in group if "cpu_seconds" in row]
            cells = (
                method,
                _at_each_time(group, "kernel M=1"),
                _worst(group, "mode mass"),
                _worst(group, "TARP"),
                _at_each_time(group, "kernel M=2"),
                ", ".join(_over_exact(group, n) for n in STEPS),
                f"{statistics.mean(seconds):.0f}" if seconds else "",
            )
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def plot(rows: list[Row], path: Path) -> None:
    """Variance ratio over t, and distance over N, a column a problem."""
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    mpl.use("agg")
    figure, axes = plt.subplots(2, len(problems), figsize=(4 * len(problems), 7), squeeze=False, layout="constrained")
    colours = {method: f"C{i}" for i, method in enumerate(dict.fromkeys(row["method"] for row in rows))}
    for row in rows:
        above, below = axes[:, problems.index(row["problem"])]
        above.set_title(row["problem"])
        if "kernel M=1" in row:
            ratio = row["kernel M=1"]["variance ratio"]
            above.plot([float(t) for t in ratio], list(ratio.values()), "o-", color=colours[row["method"]])
        ratios = [row["distance"][str(n)]["value"] / row["distance"][str(n)]["floor"] for n in STEPS]
        below.plot(STEPS, ratios, "o-", color=colours[row["method"]], label=row["method"] if row["seed"] == 0 else None)
    for above, below in axes.T:
        above.axhspan(0.97, 1.03, color="0.9")
        above.set(xlabel="t", ylim=(0, 1.6))
        below.set(xlabel="N", xscale="log", yscale="log")
    axes[0, 0].set_ylabel("conditional variance over the exact one")
    axes[1, 0].set_ylabel("distance to the data over that of exact samples")
    handles, labels = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5)
    figure.savefig(path, dpi=110)
