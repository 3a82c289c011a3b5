"""Draws as what clients asked for, and all that it takes to draw them again."""

from __future__ import annotations

import io
import shlex
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, final

import numpy as np
import torch
from fastapi import Response
from numpy.typing import NDArray

from stmd_sdk.cli.restoring import picture
from stmd_sdk.images import grid, png_bytes
from stmd_sdk.inference.summary import posterior_summary

from .asked import Drawn, Picture, SampleFormat
from .batching import BucketSettings
from .catalogue import Served
from .engine import Restoration, Restored

__all__ = ["DrawnSamples", "restoration_reply", "sample_reply"]

PNG, NPZ = "image/png", "application/x-npz"


@final
@dataclass(frozen=True, eq=False)
class DrawnSamples:
    """Samples ``x`` and their keys: ``first`` on of ``seed``. Their labels were asked for or drawn ``at_random``."""

    served: Served
    settings: BucketSettings
    seed: int
    first: int
    labels: list[int | None]
    at_random: bool
    x: NDArray[np.float32]

    @property
    def steps(self) -> int | list[float]:
        """N, or the grid of times where it is not uniform."""
        times = self.settings.times
        count = len(times) - 1
        return count if times == tuple(1 - k / count for k in range(count + 1)) else list(times)

    @property
    def command(self) -> str:
        """What draws them at home, from the file of that name and digest."""
        steps = self.steps
        line = ["stmd", "sample", "--model", self.served.name, "-n", str(len(self.x)), "--seed", str(self.seed)]
        line += ["--first", str(self.first), "--steps"]
        line += [",".join(map(str, steps)) if isinstance(steps, list) else str(steps)]
        line += ["--mean-flow-steps", str(self.settings.mean_flow_steps)]
        if self.settings.guidance != 1:
            line += ["--guidance", f"{self.settings.guidance:g}"]
        if self.at_random:
            line += ["--label", "random"]
        elif self.labels[0] is not None and all(one == other for one, other in pairwise(self.labels)):
            line += ["--label", str(self.labels[0])]
        return shlex.join([*line, "--batch-invariant"])

    def facts(self) -> dict[str, Any]:
        """Of all but the samples themselves."""
        return {
            "model": self.served.name,
            "digest": self.served.digest,
            "seed": self.seed,
            "first": self.first,
            "n": len(self.x),
            "labels": None if set(self.labels) == {None} else self.labels,
            "inference_steps": self.steps,
            "mean_flow_steps": self.settings.mean_flow_steps,
            "guidance": self.settings.guidance,
            "command": self.command,
        }


def sample_reply(drawn: DrawnSamples, form: SampleFormat) -> Response:
    """Samples as a grid, an array x or JSON; headers X-STMD-… say their keys."""
    facts = drawn.facts()
    headers = _headers({name: value for name, value in facts.items() if name != "labels"})  # may be thousands
    match form:
        case "png":
            return Response(png_bytes(grid(drawn.x)), headers=headers, media_type=PNG)
        case "npz":
            return Response(_npz(x=drawn.x), headers=headers, media_type=NPZ)
        case "json":
            said = Drawn(**facts, x=drawn.x.tolist())
            return Response(said.model_dump_json(), headers=headers, media_type="application/json")


def restoration_reply(served: Served, name: str, work: Restoration, found: Restored, form: Picture) -> Response:
    """A labelled picture, or the draws, their mean and deviation, and the measurement y."""
    draws = torch.from_numpy(found.draws)
    summary = posterior_summary(draws)
    facts = {"restoration": name, "model": served.name, "digest": served.digest, "seed": work.seed}
    facts |= {"draws": work.draws, "levels": work.levels, "operator": work.operator, "sigma": f"{work.sigma:g}"}
    if form == "png":
        body, kind = png_bytes(picture(torch.from_numpy(work.y), draws, summary)), PNG
    else:
        mean, deviation = summary.mean.numpy(), summary.deviation.numpy()
        body, kind = _npz(draws=found.draws, mean=mean, deviation=deviation, y=work.y), NPZ
    return Response(body, headers=_headers(facts), media_type=kind)


def _headers(facts: dict[str, Any]) -> dict[str, str]:
    """Headers are Latin letters: what is none is escaped."""
    return {
        f"X-STMD-{name.replace('_', '-').title()}": str(value).encode("ascii", "backslashreplace").decode()
        for name, value in facts.items()
    }


def _npz(**arrays: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()
