"""Draw the pictures of the pages: the concepts by the SDK itself, the evidence from the JSON files beside this script.

python docs/pictures.py                 # all of them, some minutes of a core
python docs/pictures.py latency steps   # some
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from stmd_sdk import Noise, Sampler, VPSchedule, grid
from stmd_sdk.data import load_data
from stmd_sdk.evaluation import GaussianMixture, MixturePosterior

HERE = Path(__file__).parent
BLUE, ORANGE, GREY = "#3f51b5", "#e07b00", "#9a9a9a"
DPI = 100


def ring() -> GaussianMixture:
    data = load_data("mixture2d")
    assert isinstance(data, GaussianMixture)
    return data


def save(figure: Figure, name: str) -> None:
    figure.savefig(HERE / "images" / f"{name}.png", dpi=DPI, bbox_inches="tight", facecolor="white")
    plt.close(figure)


def plane(axes: Axes, title: str, data: Tensor) -> None:
    axes.scatter(*data.T, s=1.5, color=GREY, alpha=0.35, linewidths=0)
    axes.set(title=title, xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), xticks=[], yticks=[], aspect="equal")


def posterior() -> None:
    """One noisy point: the mean of what it may have been, draws of that, and a network's draws of it."""
    data, schedule, t, n = ring(), VPSchedule(), 0.4, 500
    x_t = torch.tensor([[0.25, 0.3]])
    noise = Noise.of(0, n)
    rows, times = x_t.expand(n, 2), torch.full((n,), t)
    exact = MixturePosterior(data, schedule)(rows, times, noise.fold(0))
    learned = Sampler.from_pretrained("mixture2d").posterior(x_t, t, draws=n, seed=0)[:, 0]
    mean = data.posterior_mean(x_t, t, schedule)
    some = data.sample(Noise.of(1, 2000))
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
    titles = ("the mean E[x₀ | x_t]", "exact draws of p(x₀ | x_t)", "one network evaluation a draw")
    for ax, title in zip(axes, titles, strict=True):
        plane(ax, title, some)
        ax.plot(*x_t[0], "x", color="black", ms=7)
    axes[0].plot(*mean[0], "o", color=ORANGE, ms=8)
    axes[1].scatter(*exact.T, s=5, color=BLUE, alpha=0.6, linewidths=0)
    axes[2].scatter(*learned.T, s=5, color=BLUE, alpha=0.6, linewidths=0)
    save(figure, "concept-posterior")


def steps() -> None:
    """Samples after N steps from the mean, as ordinary models have it, and from a draw."""
    data, schedule, n = ring(), VPSchedule(), 1000
    sampler = Sampler.from_pretrained("mixture2d")
    some = data.sample(Noise.of(1, 2000))
    counts = (1, 4, 16)
    figure, axes = plt.subplots(2, 3, figsize=(9, 6.2), layout="constrained")
    for column, count in enumerate(counts):
        noise = Noise.of(0, n)
        x = noise.fold(0).normal(2)
        for k, (t, s) in enumerate(pairwise(torch.linspace(1, 0, count + 1)), 1):
            x_0 = data.posterior_mean(x, float(t), schedule)
            x = schedule.bridge(x_0, x, t.expand(n), s.expand(n), noise.fold(2 * k).normal(2))
        plane(axes[0, column], f"the mean, N = {count}", some)
        axes[0, column].scatter(*x.T, s=3, color=ORANGE, alpha=0.5, linewidths=0)
        plane(axes[1, column], f"a draw, N = {count}", some)
        drawn = sampler.sample(n, inference_steps=count, seed=0)
        axes[1, column].scatter(*drawn.T, s=3, color=BLUE, alpha=0.5, linewidths=0)
    save(figure, "concept-steps")


def digits() -> None:
    """A digit made noisier and noisier, and what it may have been."""
    sampler, schedule = Sampler.from_pretrained("mnist"), VPSchedule()
    digit = sampler.sample(1, inference_steps=8, labels="three", seed=0)
    rows: list[Tensor] = []
    for i, t in enumerate((0.3, 0.5, 0.8)):
        epsilon = Noise.of(0, 1).fold(100 + i).normal(1, 28, 28)
        x_t = schedule.marginal(digit, torch.tensor([t]), epsilon)
        draws = sampler.posterior(x_t, t, draws=8, seed=0)[:, 0]
        rows += [digit, x_t.clamp(-1, 1), draws.mean(dim=0, keepdim=True), draws]
    grid(torch.cat(rows), columns=11, scale=2).save(HERE / "images" / "concept-digits.png")


def stored(name: str) -> Any:
    return json.loads((HERE / f"{name}.json").read_text())


def certificates() -> None:
    """The certificates of the bundled models, from their files."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for name, colour in (("mixture2d", BLUE), ("mixture64", ORANGE)):
        found = [one for one in stored(f"certificate-{name}")["findings"] if one["measure"] == "variance ratio"]
        times, values, bands = ([one[key] for one in found] for key in ("t", "value", "band_95"))
        axes[0].errorbar(times, values, bands, fmt="o-", color=colour, capsize=3, label=name)
    axes[0].axhspan(0.97, 1.03, color=GREY, alpha=0.25, label="tolerance")
    axes[0].set(title="conditional variance over the exact one", xlabel="t", ylim=(0.9, 1.1))
    for measure, colour in (("projection coverage", BLUE), ("pixel coverage", ORANGE)):
        found = [one for one in stored("certificate-mnist")["findings"] if one["measure"] == measure]
        times, values, bands = ([one[key] for one in found] for key in ("t", "value", "band_95"))
        axes[1].errorbar(times, values, bands, fmt="o-", color=colour, capsize=3, label=measure)
    axes[1].axhspan(0.88, 0.92, color=GREY, alpha=0.25, label="tolerance")
    axes[1].set(title="mnist: 90 % intervals cover held-out digits", xlabel="t", ylim=(0.84, 0.96))
    for ax in axes:
        ax.legend(frameon=False, fontsize=8)
    save(figure, "fidelity-certificates")


def latency() -> None:
    """How long a batch takes, contender by contender."""
    found = stored("latency-cpu")["rows"]
    names = list(dict.fromkeys(row["contender"] for row in found))[::-1]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained", sharey=True)
    for ax, batch in zip(axes, (1, 64), strict=True):
        seconds = {row["contender"]: row["seconds"]["median"] for row in found if row["batch"] == batch}
        values = [seconds.get(name, np.nan) for name in names]
        colours = [GREY if name.startswith("diffusers") else BLUE for name in names]
        bars = ax.barh(names, values, color=colours)
        ax.bar_label(bars, ["" if np.isnan(value) else f"{value:.3g}" for value in values], padding=3, fontsize=8)
        ax.set(title=f"seconds, batch {batch}")
        ax.margins(x=0.25)
    axes[0].set_xscale("log")
    save(figure, "latency")


def restoration() -> None:
    """CRPS and coverage of restored digits over processor time."""
    rows = stored("posterior-digits")["rows"]
    shown = [row for row in rows if row["seed"] == 0 and row["digits"] >= 16]
    found = [{**row, "method": f"{row['method']}, {row['digits']} digits"} for row in shown]
    problems = list(dict.fromkeys(row["problem"] for row in found))
    methods = list(dict.fromkeys(row["method"] for row in found))
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained", sharey=True)
    for ax, key, title in zip(axes, ("crps", "pixel_coverage90"), ("CRPS", "coverage of 90 % intervals"), strict=True):
        for j, method in enumerate(methods):
            rows = [row for row in found if row["method"] == method]
            places = [problems.index(row["problem"]) + 0.16 * (j - (len(methods) - 1) / 2) for row in rows]
            values, errors = [row[key] for row in rows], [row[f"{key}_error"] for row in rows]
            ax.errorbar(values, places, xerr=errors, fmt="o", capsize=3, label=method)
        ax.set(title=title, yticks=range(len(problems)), yticklabels=problems)
    axes[1].axvline(0.9, color=GREY, zorder=0)
    axes[0].invert_yaxis()
    axes[1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    save(figure, "posterior-digits")


PICTURES: dict[str, Callable[[], None]] = {
    function.__name__: function for function in (posterior, steps, digits, certificates, latency, restoration)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which pictures; all by default")
    for name in parser.parse_args().names or PICTURES:
        PICTURES[name]()


if __name__ == "__main__":
    main()
