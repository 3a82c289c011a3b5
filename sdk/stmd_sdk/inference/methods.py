"""From a model and a likelihood to draws: the methods behind the sampler's, each one walk run to its end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import check_integer
from ..diffusion.noise import Noise
from ..errors import InvalidArgumentError
from .chain import metropolis, noising_for
from .coupling import coupling_for
from .draws import ChainDraws, GibbsDraws, SteeredDraws
from .gibbs import FREE, LEVELS, WIDE, annealed_gibbs, coupling_levels, resampled_gibbs
from .guidance import LogLikelihood
from .prior import Prior
from .resampling import check_powers, check_share
from .running import run_chains, run_gibbs, run_particles
from .steering import steered_sde

__all__ = ["chain_draws", "gibbs_draws", "steered_draws"]

MOST_LEVELS = 300


def gibbs_draws(
    prior: Prior,
    log_likelihood: LogLikelihood,
    noise: Noise,
    times: Sequence[float],
    *,
    steps: int | None,
    resample: bool,
    mean_flow_steps: int,
    progress: bool,
) -> GibbsDraws:
    """:meth:`stmd_sdk.Sampler.gibbs`; ``times`` are the starts' of resampled draws."""
    prior, decode = prior.bounded, prior.codec.decode
    decoded = prior.codec.decoded_shape(prior.shape)
    seen = prior.seen(log_likelihood) if decoded == prior.shape else log_likelihood
    coupling = coupling_for(seen, decode, prior.shape, decoded, prior.schedule, prior.sigma_data, prior.device)
    if not resample:
        levels = coupling_levels(WIDE * prior.sigma_data, coupling.last, LEVELS if steps is None else steps)
        x_0 = torch.zeros(len(noise), *prior.shape, device=prior.device)
        walk = annealed_gibbs(prior.posterior, prior.schedule, coupling, levels, x_0, noise)
        return run_gibbs(walk, coupling, len(levels), (0, mean_flow_steps), decode, False, progress)
    _check_one_class(noise, "resampled draws")
    most = MOST_LEVELS if steps is None else check_integer("steps", steps, 1)
    x_0 = prior.draw(times, noise.fold(0))
    walk = resampled_gibbs(prior.posterior, prior.schedule, coupling, FREE * prior.sigma_data, x_0, noise.fold(1))
    cost = (len(times) - 1) * mean_flow_steps, mean_flow_steps
    return run_gibbs(walk, coupling, most, cost, decode, True, progress)


def chain_draws(
    prior: Prior,
    log_likelihood: LogLikelihood,
    noise: Noise,
    start: Float[Tensor, "b *d"] | Sequence[float],
    *,
    steps: int,
    levels: Sequence[float] | None,
    tempering: float | None,
    progress: bool,
) -> ChainDraws:
    """:meth:`stmd_sdk.Sampler.chain`, from the states ``start`` or from draws of the prior at these times."""
    prior, decode = prior.bounded, prior.codec.decode
    if tempering is not None:
        check_share("tempering", tempering)
        if isinstance(start, Tensor):
            raise InvalidArgumentError("tempering starts from draws of the prior: with start give tempering=None")
    if isinstance(start, Tensor) and len(start) != len(noise):
        raise InvalidArgumentError(f"start holds {len(start)} samples for {len(noise)} chains")
    _check_one_class(noise, "chains")
    steps = check_integer("steps", steps, 1)
    noising = noising_for(prior.seen(log_likelihood), levels, prior.schedule, prior.shape, prior.device)
    x_0 = start if isinstance(start, Tensor) else prior.draw(start, noise.fold(0))
    walk = metropolis(
        prior.posterior, lambda x: log_likelihood(decode(x)), x_0, noising, noise.fold(1), tempering=tempering
    )
    return run_chains(walk, steps, decode, tempering is not None, progress)


def steered_draws(
    prior: Prior,
    reward: LogLikelihood,
    noise: Noise,
    times: Sequence[float],
    *,
    resample_below: float,
    tempering: float | Sequence[float],
    progress: bool,
) -> SteeredDraws:
    """:meth:`stmd_sdk.Sampler.steer`."""
    check_share("resample_below", resample_below)
    _check_one_class(noise, "particles")
    check_powers(tempering, len(times) - 1)
    walk = steered_sde(
        prior.posterior,
        prior.schedule,
        times,
        prior.shape,
        lambda x: reward(prior.codec.decode(x)),
        noise,
        resample_below=resample_below,
        tempering=tempering,
    )
    return run_particles(walk, len(times) - 1, prior.codec.decode, progress)


def _check_one_class(noise: Noise, what: str) -> None:
    """Raise where states that replace each other, or are compared, would be of several classes."""
    if noise.labels is not None and bool((noise.labels != noise.labels[0]).any()):
        raise InvalidArgumentError(f"labels: {what} cooperate and must be of one class; give each class its own call")
