"""The analytic problems: mixtures of fixed definition, so that results compare."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from ..errors import InvalidArgumentError
from .law import GaussianMixture

__all__ = ["MIXTURES", "mixture"]

MIXTURES = "mixture2d", "mixture3", "mixture8", "mixture64"
ASSETS = Path(__file__).parents[1] / "assets"


def mixture(name: str) -> GaussianMixture:
    """One of the analytic problems, whose definitions are fixed so that results compare.

    - ``mixture2d``: eight equal modes on a circle of radius 1.4, the first at angle 0, deviation 0.15.
    - ``mixture3``: means (-3, -3), (0, 0), (3, 3), covariance ½ I, equal weights.
    - ``mixture8``: 25 modes in 8-D, equal weights, deviation 0.25; the first two coordinates of the means
      form the grid {-2, -1, 0, 1, 2}², the others are 0.
    - ``mixture64``: 20 full covariances fitted to the 8×8 digits; its parameters, stored as float32, are of
      ``sklearn.mixture.GaussianMixture(20, covariance_type="full", reg_covar=5e-3, random_state=0)
      .fit(load_digits().data / 8 - 1)`` with scikit-learn 1.9.1.
    """
    match name:
        case "mixture2d":
            angle = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
            circle = torch.stack([angle.cos(), angle.sin()], dim=1)
            return GaussianMixture.isotropic(1.4 * circle, 0.15, name)
        case "mixture3":
            means = torch.tensor([[-3.0, -3.0], [0.0, 0.0], [3.0, 3.0]], dtype=torch.float64)
            return GaussianMixture.isotropic(means, math.sqrt(0.5), name)
        case "mixture8":
            side = torch.arange(-2, 3, dtype=torch.float64)
            means = torch.nn.functional.pad(torch.cartesian_prod(side, side), (0, 6))
            return GaussianMixture.isotropic(means, 0.25, name)
        case "mixture64":
            with np.load(ASSETS / "mixture64.npz", allow_pickle=False) as file:
                stored = {key: torch.from_numpy(file[key]) for key in ("weights", "means", "covariances")}
            return GaussianMixture(stored["weights"], stored["means"], stored["covariances"], name)
        case _:
            raise InvalidArgumentError(f"no mixture {name!r}; there are {', '.join(MIXTURES)}")
