"""The sampler: one loop over a posterior and its bridge."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from .checks import check_integer
from .diffusion.loop import Steps, reverse_sde, time_grid, times_of_rows
from .diffusion.network import Network
from .diffusion.noise import Noise
from .diffusion.posterior import Posterior, bounded
from .errors import InferenceError, InvalidArgumentError
from .inference.chain import metropolis, noising_for
from .inference.coupling import coupling_for
from .inference.draws import ChainDraws, GibbsDraws, SteeredDraws, run_chains, run_gibbs, run_particles
from .inference.gibbs import LEVELS, WIDE, annealed_gibbs, coupling_levels, resampled_gibbs
from .inference.guidance import Guide, LogLikelihood, RangeNullGuide
from .inference.resampling import check_powers, check_share
from .inference.steering import steered_sde
from .inference.summary import posterior_summary
from .models.checkpoint import resolve_model
from .models.spec import ModelSpec
from .operators import (
    GaussianNoise,
    LinearOperator,
    Measurement,
    check_linear,
    check_measurement,
    check_reachable,
    check_scale,
    doubt_scale,
)
from .operators.scaled import through_codec
from .progress import progress_bar
from .runs.captured import CapturedRun
from .runs.chunks import chunked, in_chunks, rows_at_once
from .runs.eager import EagerRun
from .runs.inputs import BUCKET, noise_of, state_of, whole_buckets
from .runs.opening import open_model
from .runs.run import Run

__all__ = ["Sampler"]


@final
@dataclass(frozen=True)
class Sampler:
    """A trained model, ready to draw: samples, transitions of the reverse SDE, posteriors p(x_0 | x_t).

    ``network`` is any :class:`Network`; use :meth:`from_pretrained` unless you bring your own. ``guides`` are
    functions from Posterior to Posterior, applied in their order to the model's own wherever it is drawn from.
    ``captured`` is the same network as recorded whole runs, which ``sample`` takes where it can.
    """

    network: Network
    spec: ModelSpec
    device: torch.device
    guides: tuple[Guide, ...] = ()
    captured: CapturedRun | None = None

    posterior_summary = staticmethod(posterior_summary)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        compile: bool = False,
        eager: bool = False,
    ) -> Sampler:
        """Load a bundled model by name ("mnist", "digits", "mixture2d") or a model file by path.

        The suffix picks the backend: PyTorch for .safetensors, ONNX Runtime for .onnx, TensorRT for .engine.
        ``device`` None takes CUDA where there is one; a device that is asked for and absent is an error.
        ``dtype`` is that of the network's arithmetic: float32, bfloat16 or float16. State stays float32.
        ``compile`` passes a .safetensors model through ``torch.compile``: a first call takes up to a minute.
        On CUDA, ``sample`` of a .safetensors model captures whole runs without guides, of up to 128 evaluations, as
        CUDA graphs: a first call of a size captures, later ones replay. ``eager`` turns that off; on the CPU and for
        other files, where nothing is captured, it has no effect.
        """
        opened = open_model(resolve_model(name_or_path), device, dtype, compile=compile, eager=eager)
        network, spec, on, captured = opened
        return cls(network, spec, on, captured=captured)

    def sample(
        self,
        n: int,
        *,
        inference_steps: Steps = None,
        mean_flow_steps: int = 1,
        seed: int | Noise | None = None,
        first: int = 0,
        batch_size: int | None = None,
        batch_invariant: bool = False,
        progress: bool = False,
    ) -> Float[Tensor, "n *d"]:
        """Draw samples ``first`` to ``first + n - 1`` of ``seed``: float32 on the device, images in [-1, 1].

        Sample k of a seed is the same whatever ``n``, ``first`` and ``batch_size``, up to the rounding of the
        network's sums, which depends on the batch. With ``batch_invariant`` it is the same bit for bit: whole
        buckets of 16 neighbours are drawn in place of ``batch_size`` rows, so that sample k is always row
        k mod 16 of 16, and those not asked for are dropped. ``batch_size`` None takes what fits in memory.
        With ``inference_steps`` N and ``mean_flow_steps`` M it costs N x M network evaluations a sample. A
        ``Noise`` as seed names its samples itself.
        """
        times = self._times(inference_steps, mean_flow_steps)
        fitting = rows_at_once(self.spec.shape, self.device)
        size = fitting if batch_size is None else check_integer("batch_size", batch_size, 1)
        self.spec.codec.prepare(self.spec.shape)
        noise, kept = noise_of(seed, n, first, self.device), slice(None)
        if batch_invariant:
            if isinstance(seed, Noise):
                raise InvalidArgumentError("batch_invariant needs a seed that is an integer: its samples are in order")
            noise, kept, size = *whole_buckets(noise), BUCKET
        with progress_bar("sampling", math.ceil(len(noise) / size) * (len(times) - 1), "step", progress) as advance:
            run: Run = EagerRun(self._posterior, self.spec, advance)
            if self.captured is not None and not self.guides and self.captured.fits(times, mean_flow_steps):
                run = replace(self.captured, most=size, advance=advance)

            def draw(rows: slice) -> Tensor:
                return run(noise[rows], times, mean_flow_steps)

            drawn = in_chunks(draw, len(noise), size, shrink=batch_size is None and not batch_invariant)[kept]
        return _finite(drawn)

    def trajectory(
        self,
        n: int,
        *,
        inference_steps: Steps = None,
        mean_flow_steps: int = 1,
        seed: int | Noise | None = None,
        first: int = 0,
    ) -> Iterator[tuple[float, Float[Tensor, "n *d"], Float[Tensor, "n *d"]]]:
        """Yield (t, x_t, x_0) as sampling goes: where the path is, and the draw of x_0 that led there.

        Both as the network sees them: the last x_t, decoded, is what ``sample`` returns.
        """
        times, noise = self._times(inference_steps, mean_flow_steps), noise_of(seed, n, first, self.device)
        return reverse_sde(self._posterior(mean_flow_steps), self.spec.schedule, times, self.spec.shape, noise)

    def transition(
        self,
        x_t: Float[Tensor, "b *d"],
        t: float | Float[Tensor, " b"],
        s: float | Float[Tensor, " b"],
        *,
        mean_flow_steps: int = 1,
        seed: int | Noise | None = None,
    ) -> Float[Tensor, "b *d"]:
        """One step of the reverse SDE: x_s ~ p(x_s | x_t), 0 <= s <= t <= 1, t > 0.

        ``seed`` uses the keys of a run's first step; in a loop of your own pass a fresh ``Noise`` a step.
        """
        x_t, t = state_of(x_t, t, self.spec, self.device)
        s = times_of_rows(s, len(x_t), self.device)
        if not bool(((s >= 0) & (s <= t)).all()):
            raise InvalidArgumentError("s must lie in [0, t]")
        noise = noise_of(seed, len(x_t), 0, self.device)
        x_0 = self._posterior(mean_flow_steps)(x_t, t, noise.fold(1))
        return self.spec.schedule.bridge(x_0, x_t, t, s, noise.fold(2).normal(*self.spec.shape))

    def posterior(
        self,
        x_t: Float[Tensor, "b *d"],
        t: float | Float[Tensor, " b"],
        *,
        draws: int = 1,
        mean_flow_steps: int = 1,
        seed: int | Noise | None = None,
    ) -> Float[Tensor, "draws b *d"]:
        """``draws`` draws of p(x_0 | x_t) for each sample, as the network sees x_0 (not decoded).

        STMD's are independent; DDPM and Mean Flow know one point a state, so all their draws are equal.
        """
        x_t, t = state_of(x_t, t, self.spec, self.device)
        draws = check_integer("draws", draws, 1)
        noise = noise_of(seed, len(x_t), 0, self.device).fold(1).draws(draws)
        posterior = chunked(self._posterior(mean_flow_steps))
        x_0 = posterior(x_t.repeat(draws, *[1] * (x_t.ndim - 1)), t.repeat(draws), noise)
        return x_0.reshape(draws, -1, *self.spec.shape)

    def guided(self, *guides: Guide) -> Sampler:
        """The same sampler with more guides, applied after those it has."""
        return replace(self, guides=(*self.guides, *guides))

    def condition(self, operator: LinearOperator, y: Tensor, *, sigma: float = 0.0) -> Sampler:
        """A sampler of x_0 given one linear measurement y = A x_0 + N(0, sigma² I), by range-null space guidance.

        ``operator`` has ``A``, ``A_adjoint`` and ``A_dagger``: those of :mod:`stmd_sdk.operators`, deepinv's
        linear physics. Without noise every sample meets ``y`` [*m] or [1, *m] exactly, before the codec clamps it.
        Images are in [-1, 1]: a ``y`` that looks measured of images in [0, 1] is an :class:`InferenceWarning`, as
        nothing can tell it for certain. More measurements and other guides compose; for other likelihoods see
        :meth:`chain` and :meth:`steer`.
        """
        if not 0 <= sigma < math.inf:
            raise InvalidArgumentError(f"sigma must not be negative or infinite, got {sigma}")
        y = check_measurement(operator, y, self.spec.shape, self.device)
        check_linear(operator, self.spec.shape, self.device)
        operator, y = through_codec(operator, y, self.spec.codec)
        bound = self.spec.codec.bound
        if sigma == 0:
            check_reachable(operator, y, bound)
        elif bound is not None:
            check_scale(operator, y, self.spec.shape, bound, sigma)
        if bound is not None:
            doubt_scale(operator, y, self.spec.shape, bound, sigma)
        return self.guided(RangeNullGuide(operator, y, self.spec.schedule, self.spec.sigma_data, sigma))

    def gibbs(
        self,
        log_likelihood: LogLikelihood,
        draws: int = 64,
        *,
        steps: int | None = None,
        resample: bool = False,
        mean_flow_steps: int = 1,
        seed: int | Noise | None = None,
        progress: bool = False,
    ) -> GibbsDraws:
        """Draw p(x_0 | y) by split Gibbs sampling: exact for linear measurements with Gaussian noise, of any spectrum.

        ``log_likelihood`` is a :class:`Measurement` or any function of decoded samples; for what is not linear and
        Gaussian the result says how near it comes. Each of ``steps`` couplings, 40 by default, costs M evaluations a
        draw; draw k of a seed is the same in any batch. With ``resample`` the draws are particles that cooperate,
        exact as they grow also where the posterior has several modes, and estimate the evidence; ``steps`` is then
        the most couplings, 100 by default, and the starts cost N x M more.
        """
        spec, schedule = self.spec, self.spec.schedule
        posterior = self._exact_posterior(mean_flow_steps, "gibbs")
        if spec.codec.bound is not None:
            posterior = bounded(posterior, spec.codec.bound)
        decoded = spec.codec.decoded_shape(spec.shape)
        seen = self._seen(log_likelihood) if decoded == spec.shape else log_likelihood
        coupling = coupling_for(seen, spec.codec.decode, spec.shape, decoded, schedule, spec.sigma_data, self.device)
        noise, first = noise_of(seed, draws, 0, self.device), WIDE * spec.sigma_data
        if not resample:
            levels = coupling_levels(first, coupling.last, LEVELS if steps is None else steps)
            x_0 = torch.zeros(draws, *spec.shape, device=self.device)
            walk = annealed_gibbs(posterior, schedule, coupling, levels, x_0, noise)
            return run_gibbs(walk, coupling, len(levels), (0, mean_flow_steps), spec.codec.decode, False, progress)
        most = 100 if steps is None else check_integer("steps", steps, 1)
        times = self._times(None, mean_flow_steps)
        *_, (_, x_0, _) = reverse_sde(posterior, schedule, times, spec.shape, noise.fold(0))
        walk = resampled_gibbs(posterior, schedule, coupling, first, x_0, noise.fold(1))
        cost = (len(times) - 1) * mean_flow_steps, mean_flow_steps
        return run_gibbs(walk, coupling, most, cost, spec.codec.decode, True, progress)

    def chain(
        self,
        log_likelihood: LogLikelihood,
        chains: int = 256,
        *,
        steps: int = 100,
        levels: Sequence[float] | None = None,
        tempering: float | None = 0.9,
        start: Tensor | None = None,
        inference_steps: Steps = None,
        mean_flow_steps: int = 1,
        seed: int | Noise | None = None,
        progress: bool = False,
    ) -> ChainDraws:
        """Draw p(x_0 | y) ∝ p(x_0) L(x_0) by Metropolis chains, for any log-likelihood of decoded samples.

        Each of ``steps`` costs M evaluations a chain, the starts (draws of the prior unless given) N x M. With
        ``tempering``, the share of effective chains that raising the likelihood's power may leave, the chains
        cooperate and estimate the evidence; None leaves them independent. ``levels`` are the times that they
        noise to; None takes conditional noising for a linear :class:`Measurement` with Gaussian noise, and five
        times from 0.8 to 0.1 for all others. Draws of pixels are clamped as the data are.
        """
        posterior, decode = self._exact_posterior(mean_flow_steps, "chain"), self.spec.codec.decode
        if self.spec.codec.bound is not None:
            # A likelihood of clamped samples no longer cancels against the noising of samples that are not.
            posterior = bounded(posterior, self.spec.codec.bound)
        if tempering is not None:
            check_share("tempering", tempering)
            if start is not None:
                raise InvalidArgumentError("tempering starts from draws of the prior: with start give tempering=None")
        noise, steps = noise_of(seed, chains, 0, self.device), check_integer("steps", steps, 1)
        noising = noising_for(self._seen(log_likelihood), levels, self.spec.schedule, self.spec.shape, self.device)
        if start is None:
            times = self._times(inference_steps, mean_flow_steps)
            *_, (_, x_0, _) = reverse_sde(posterior, self.spec.schedule, times, self.spec.shape, noise.fold(0))
        else:
            x_0, _ = state_of(start, 1.0, self.spec, self.device)
            if len(x_0) != chains:
                raise InvalidArgumentError(f"start holds {len(x_0)} samples for {chains} chains")
        walk = metropolis(
            posterior, lambda x: log_likelihood(decode(x)), x_0, noising, noise.fold(1), tempering=tempering
        )
        return run_chains(walk, steps, decode, tempering is not None, progress)

    def steer(
        self,
        reward: LogLikelihood,
        particles: int = 1024,
        *,
        inference_steps: Steps = None,
        resample_below: float = 0.5,
        tempering: float | Sequence[float] = 0.8,
        mean_flow_steps: int = 1,
        seed: int | Noise | None = None,
        progress: bool = False,
    ) -> SteeredDraws:
        """Draw p(x_0) exp(reward(x_0)) by sequential Monte Carlo, for any reward of decoded samples.

        Costs N x M evaluations a particle. ``tempering`` is the share of effective particles that the reward's
        rising power may leave, or the powers themselves, one a step and 1 at last.
        """
        posterior, decode = self._exact_posterior(mean_flow_steps, "steer"), self.spec.codec.decode
        times = self._times(inference_steps, mean_flow_steps)
        check_share("resample_below", resample_below)
        check_powers(tempering, len(times) - 1)
        walk = steered_sde(
            posterior,
            self.spec.schedule,
            times,
            self.spec.shape,
            lambda x: reward(decode(x)),
            noise_of(seed, particles, 0, self.device),
            resample_below=resample_below,
            tempering=tempering,
        )
        return run_particles(walk, len(times) - 1, decode, progress)

    def _seen(self, log_likelihood: LogLikelihood) -> LogLikelihood:
        """A linear measurement with Gaussian noise as one of what the network sees, once its scale is checked."""
        if not isinstance(log_likelihood, Measurement) or not isinstance(log_likelihood.noise, GaussianNoise):
            return log_likelihood
        operator, y, codec = log_likelihood.operator, log_likelihood.y.to(self.device), self.spec.codec
        if not isinstance(operator, LinearOperator):
            return log_likelihood
        if codec.bound is not None:
            check_scale(operator, y, self.spec.shape, codec.bound, log_likelihood.noise.sigma)
            doubt_scale(operator, y, self.spec.shape, codec.bound, log_likelihood.noise.sigma)
        return Measurement(*through_codec(operator, y, codec), log_likelihood.noise)

    def _times(self, inference_steps: Steps, mean_flow_steps: int) -> list[float]:
        times = time_grid(self.spec.default_inference_steps if inference_steps is None else inference_steps)
        self.spec.check_steps(len(times) - 1, mean_flow_steps)
        return times

    def _posterior(self, mean_flow_steps: int) -> Posterior:
        self.spec.check_steps(1, mean_flow_steps)
        posterior = self.spec.build_posterior(self.network, mean_flow_steps)
        for guide in self.guides:
            posterior = guide(posterior)
        return posterior

    def _exact_posterior(self, mean_flow_steps: int, what: str) -> Posterior:
        """The model's own posterior in batches, for methods whose mathematics needs draws of it and no others."""
        if self.guides:
            raise InvalidArgumentError(
                f"{what} corrects the model's own draws: start from the sampler without guides, and give the "
                "measurement as its likelihood"
            )
        if not self.spec.objective.draws:
            raise InvalidArgumentError(
                f"{what} needs draws of p(x_0 | x_t); a model of objective {self.spec.objective.kind!r} knows one point"
            )
        return chunked(self._posterior(mean_flow_steps))


def _finite(samples: Tensor) -> Tensor:
    """Samples without NaN: their extremes tell, in one pass."""
    if not bool(torch.stack(torch.aminmax(samples)).isfinite().all()):
        bad = int((~samples.flatten(1).isfinite().all(dim=1)).sum())
        raise InferenceError(
            f"{bad} of {len(samples)} samples have values that are not finite: the model, or what guides it, gives them"
        )
    return samples
