"""What the network adds to local Gaussians on vectors that are no mixture: held-out certificates with and without it.

    python benchmarks/vectors.py                     four sets, some 10 minutes of one core

The sets come with scikit-learn: ten measurements of diabetes patients, thirty of cell nuclei, digits in 16 principal
components, and 4x4 pieces of a photograph. Of each split a third is held out. The number of Gaussians is the power of
two that makes a fifth of the others likeliest; `network` is `mixture64-local` from that fit. CRPS (lower is better),
the share of projections that 90 % intervals cover, spread over skill and TARP are means over the splits and over
t = 0.3, 0.5, 0.8; ± is the standard deviation over the splits, for the difference of CRPS too.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from sklearn import datasets
from sklearn.decomposition import PCA
from torch import Tensor

from stmd_sdk.codecs.codec import VectorCodec
from stmd_sdk.data.arrays import ArrayData
from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.errors import InvalidArgumentError
from stmd_sdk.evaluation import heldout_certificate
from stmd_sdk.evaluation.statistics import spread
from stmd_sdk.sampler import Sampler
from stmd_training.fitting import fit_local_gaussians
from stmd_training.likelihood import Fit
from stmd_training.recipe import load_recipe
from stmd_training.run import TrainingRun

TIMES = 0.3, 0.5, 0.8
MOST = 6  # 2**6 Gaussians
MEASURES = "CRPS", "projection coverage", "spread-skill", "TARP"


def vectors(name: str) -> Float[Tensor, "n d"]:
    """The set, in its own units."""
    match name:
        case "diabetes":
            x, _ = datasets.load_diabetes(return_X_y=True, scaled=False)
        case "cell nuclei":
            x, _ = datasets.load_breast_cancer(return_X_y=True)
        case "digits, 16 components":
            x = PCA(16, random_state=0).fit_transform(datasets.load_digits(return_X_y=True)[0])
        case "4x4 of a photograph":
            grey = datasets.load_sample_image("china.jpg").mean(axis=2)[:424, :640]
            x = grey.reshape(106, 4, 160, 4).swapaxes(1, 2).reshape(-1, 16)
        case _:
            raise ValueError(name)
    return torch.from_numpy(np.asarray(x, dtype=np.float32))


SETS = "diabetes", "cell nuclei", "digits, 16 components", "4x4 of a photograph"


def likeliest(x: Float[Tensor, "n d"]) -> int:
    """How many Gaussians make a last fifth likeliest, of those that can be fitted."""
    x = VectorCodec.standardising(x).encode(x)
    seen, held_out, found = x[: -len(x) // 5], x[-len(x) // 5 :], dict[int, float]()
    for clusters in (2**k for k in range(MOST + 1)):
        try:
            gaussians = fit_local_gaussians(seen, clusters).components
        except InvalidArgumentError:
            break
        covariances = gaussians.axes.mT @ torch.diag_embed(gaussians.eigenvalues) @ gaussians.axes
        fit = Fit(gaussians.log_weights.exp().double(), gaussians.means.double(), covariances.double())
        found[clusters] = float(fit.log_density(held_out).mean())
    return max(found, key=lambda clusters: found[clusters])


def figures(recipe: str, x: Tensor, held_out: Tensor, clusters: int, seed: int, steps: int) -> dict[str, float]:
    """The measures of a model trained, or fitted, on x."""
    settings = [f"shape=[{x.shape[1]}]", f"clusters={clusters}", f"seed={seed}"]
    if recipe != "local-gaussians":
        settings += [f"steps={steps}", "batch_size=256", "network.width=128"]
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        data = ArrayData("vectors", x, VectorCodec())
        path = TrainingRun(load_recipe(recipe, tuple(settings)), data, Path(folder))(progress=False)
        seconds, sampler = time.process_time() - begun, Sampler.from_pretrained(path)
    spec = sampler.spec
    posterior = spec.build_posterior(sampler.network)
    rows = Noise.of(seed, len(held_out)).uniform().argsort()[:1024]
    with torch.no_grad():
        certificate = heldout_certificate(
            posterior, spec.codec.encode(held_out[rows]), spec.schedule, spec.sigma_data, times=TIMES, seed=seed
        )
    of = {name: [one.estimate.value for one in certificate.findings if one.measure == name] for name in MEASURES}
    return {name: statistics.mean(values) for name, values in of.items()} | {"seconds": seconds}


def main() -> None:
    """Print the table as it comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=2)
    parser.add_argument("--steps", type=int, default=500, help="of the network's training")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    options, console = parser.parse_args(), Console(width=200)
    torch.set_num_threads(1)
    console.print("| set | model | CRPS | projections | spread over skill | TARP | network less fit, CRPS | CPU s |")
    console.print("|---|---|---|---|---|---|---|---|")
    for name in options.sets:
        all_x, rows = vectors(name), dict[str, list[dict[str, float]]]()
        for seed in range(options.splits):
            order = Noise.of(seed, len(all_x)).uniform().argsort()
            x, held_out = all_x[order].tensor_split([2 * len(order) // 3])
            clusters = likeliest(x)
            for model, recipe in (("fit", "local-gaussians"), ("network", "mixture64-local")):
                rows.setdefault(model, []).append(
                    figures(recipe, x, held_out, clusters, seed, options.steps) | {"clusters": clusters}
                )
        for model, found in rows.items():
            of = {key: [one[key] for one in found] for key in found[0]}
            cells = [spread(of[measure], 3) for measure in MEASURES]
            apart = [one["CRPS"] - fit["CRPS"] for one, fit in zip(found, rows["fit"], strict=True)]
            counts = ", ".join(f"{count:.0f}" for count in of["clusters"])
            less = "" if model == "fit" else spread(apart, 4)
            shown = f"{counts} Gaussians" if model == "fit" else "and the network"
            console.print(f"| {name} | {shown} | {' | '.join(cells)} | {less} | {spread(of['seconds'], 0)} |")


if __name__ == "__main__":
    main()
