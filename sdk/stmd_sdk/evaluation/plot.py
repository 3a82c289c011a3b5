"""The certificate's page: its first measure over t, coverage curves, rank histograms, draws."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.noise import Noise
from ..diffusion.posterior import Posterior
from ..diffusion.schedule import Schedule
from ..errors import requires_extra
from ..files import written_whole
from ..mixtures.law import GaussianMixture, MixturePosterior
from .joint import draw, joint_draws
from .report import Report
from .statistics import bridge_quantile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Clouds", "Gallery", "blank_page", "clouds", "gallery", "write_page"]

STATES, POINTS = 3, 400
GALLERY_DRAWS = 5


@final
@dataclass(frozen=True, eq=False)
class Clouds:
    """Draws of model and oracle for a few states at one t, in the plane where the oracle's spread most."""

    t: float
    model: Float[Tensor, "states n 2"]
    oracle: Float[Tensor, "states n 2"]


@final
@dataclass(frozen=True, eq=False)
class Gallery:
    """Images in rows of x_t, x_0 and draws, one row a time."""

    times: tuple[float, ...]
    images: Float[Tensor, "rows columns c h w"]


def clouds(
    posterior: Posterior, mixture: GaussianMixture, schedule: Schedule, *, seed: int = 0, t: float = 0.3
) -> Clouds:
    """Draws of ``posterior`` and of the exact one for three states x_t."""
    noise = Noise.of(seed, STATES).fold(1 << 16)
    times = torch.full((STATES,), t)
    x_t = schedule.marginal(mixture.sample(noise.fold(0)), times, noise.fold(1).normal(*mixture.shape))
    model = draw(posterior, x_t, t, POINTS, noise.fold(2)).transpose(0, 1)
    oracle = draw(MixturePosterior(mixture, schedule), x_t, t, POINTS, noise.fold(3)).transpose(0, 1)
    centre = oracle.flatten(0, 1).mean(dim=0)
    axes = torch.linalg.svd(oracle.flatten(0, 1) - centre, full_matrices=False).Vh[:2].T
    axes = torch.eye(2) if mixture.shape == (2,) else torch.nn.functional.pad(axes, (0, 2 - axes.shape[1]))
    return Clouds(t, model @ axes, oracle @ axes)


def gallery(
    posterior: Posterior,
    x_0: Float[Tensor, "n c h w"],
    schedule: Schedule,
    times: tuple[float, ...],
    *,
    seed: int = 0,
) -> Gallery:
    """One held-out image: x_t at each of ``times``, the truth, and draws."""
    rows: list[Tensor] = []
    for i, t in enumerate(times):
        noise = Noise.of(seed, 1).fold(1 << 16).fold(i)
        joint = joint_draws(posterior, schedule, x_0[:1], t, GALLERY_DRAWS, noise)
        rows.append(torch.cat([joint.x_t, joint.x_0, joint.draws[:, 0]]))
    return Gallery(times, torch.stack(rows))


def blank_page() -> Figure:
    """A landscape page; needs the extra ``plot``."""
    with requires_extra("plot"):
        from matplotlib.figure import Figure  # noqa: PLC0415
    return Figure(figsize=(11, 8.5), layout="constrained")


def write_page(report: Report, panel: Clouds | Gallery | None, path: Path) -> None:
    """Draw the report on one page; needs the extra ``plot``."""
    figure = blank_page()
    axes = figure.subplots(2, 2)
    verdict = "pass" if report.passed else "fail"
    figure.suptitle(f"{report.model} on {report.data}, M = {report.mean_flow_steps}: {verdict}")
    _first_measure(axes[0, 0], report)
    _coverage(axes[0, 1], report)
    _ranks(axes[1, 0], report)
    if isinstance(panel, Clouds):
        _clouds(axes[1, 1], panel)
    elif isinstance(panel, Gallery):
        _gallery(axes[1, 1], panel)
    else:
        axes[1, 1].set_axis_off()
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


def _first_measure(axes: Axes, report: Report) -> None:
    """Variance ratio or projection coverage over t. The window follows the model; a control may lie below it."""
    first = report.certificate.findings[0]
    target, tolerance = first.target or 0.0, first.tolerance or 0.0
    reach = 5 * tolerance
    for name, certificate in {"model": report.certificate, **report.controls}.items():
        found = [finding for finding in certificate.findings if finding.measure == first.measure]
        values, bands = [one.estimate.value for one in found], [one.estimate.band for one in found]
        times, model = [one.t for one in found], certificate is report.certificate
        axes.errorbar(times, values, bands, label=name, fmt="ko-" if model else "-", linewidth=1.5 if model else 0.8)
        if model:
            reach = max([reach, *(1.1 * abs(value - target) + band for value, band in zip(values, bands, strict=True))])
    axes.axhspan(target - tolerance, target + tolerance, color="tab:green", alpha=0.2, label="tolerance")
    axes.set(xlabel="t", title=f"{first.measure} (95 % bands)", ylim=(target - reach, target + reach))
    axes.legend(fontsize="small", loc="upper right", ncols=2)


def _coverage(axes: Axes, report: Report) -> None:
    reach = 0.05
    for t, coverage in report.certificate.curves("TARP").items():
        levels = [j / (len(coverage) + 1) for j in range(len(coverage) + 2)]
        gap = [found - level for found, level in zip([0.0, *coverage, 1.0], levels, strict=True)]
        axes.plot(levels, gap, marker=".", label=f"t = {t:g}")
        reach = max([reach, *(1.1 * abs(value) for value in gap)])
    band = bridge_quantile(report.certificate.draws) / report.certificate.pairs**0.5
    axes.axhspan(-band, band, color="gray", alpha=0.2, label="95 % of exact draws")
    axes.set(xlabel="credibility level", title="TARP: coverage minus level", ylim=(-reach, reach))
    axes.legend(fontsize="small", ncols=2)


def _ranks(axes: Axes, report: Report) -> None:
    reach = 0.2
    for t, counts in report.certificate.curves("ranks").items():
        expected = sum(counts) / len(counts)
        shares = [count / expected for count in counts]
        axes.plot(shares, drawstyle="steps-mid", label=f"t = {t:g}")
        reach = max([reach, *(1.1 * abs(share - 1) for share in shares)])
    axes.axhline(1, color="black", linewidth=0.8, linestyle="--")
    axes.set(
        xlabel="rank of the truth among the draws", title="rank histograms, 1 is right", ylim=(1 - reach, 1 + reach)
    )
    axes.legend(fontsize="small", ncols=2)


def _clouds(axes: Axes, panel: Clouds) -> None:
    for state, (model, oracle) in enumerate(zip(panel.model.numpy(), panel.oracle.numpy(), strict=True)):
        label = (f"exact, t = {panel.t:g}", "model") if state == 0 else (None, None)
        axes.scatter(*oracle.T, s=14, facecolors="none", edgecolors=f"C{state}", linewidths=0.5, label=label[0])
        axes.scatter(*model.T, s=5, color=f"C{state}", marker="x", linewidths=0.6, label=label[1])
    axes.set(title="draws given three states x_t", aspect="equal")
    axes.legend(fontsize="small")


def _gallery(axes: Axes, panel: Gallery) -> None:
    rows, columns, channels, height, width = panel.images.shape
    tiled = panel.images.permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, channels)
    shade = ((tiled.clamp(-1, 1) + 1) / 2).numpy()
    axes.imshow(shade[..., 0] if channels == 1 else shade, cmap="gray", vmin=0, vmax=1)
    axes.set_yticks([(row + 0.5) * height for row in range(rows)], [f"t = {t:g}" for t in panel.times])
    axes.set_xticks([(column + 0.5) * width for column in range(columns)], ["x_t", "x_0", *["draw"] * (columns - 2)])
    axes.set(title="a held-out image and draws given its x_t")
