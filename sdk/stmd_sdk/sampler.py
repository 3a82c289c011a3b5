"""The sampler: one loop over a posterior and its bridge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from .backends.devices import resolve_device
from .checks import check_integer
from .codecs.codec import Codec
from .diffusion.denoiser import Denoiser
from .diffusion.labelled import Labels
from .diffusion.loop import Steps, reverse_sde
from .diffusion.network import Network
from .diffusion.noise import Noise
from .diffusion.posterior import Posterior
from .errors import InvalidArgumentError
from .inference.draws import ChainDraws, GibbsDraws, SteeredDraws
from .inference.guidance import Guide, LogLikelihood, range_null_guide
from .inference.methods import chain_draws, gibbs_draws, steered_draws
from .inference.prior import Prior
from .inference.summary import posterior_summary
from .models.checkpoint import resolve_model
from .models.spec import ModelSpec
from .operators import LinearOperator, check_measurement
from .runs.captured import CapturedRun
from .runs.card import model_file, publish_model
from .runs.chunks import chunked
from .runs.drawing import draw_samples
from .runs.eager import EagerRun
from .runs.given import given_denoiser
from .runs.inputs import earlier, noise_of, state_of
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

    The options that methods share are said at :meth:`sample`; where states are given, labels are one for each.
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
        revision: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        compile: bool = False,
        eager: bool = False,
    ) -> Sampler:
        """Load a bundled model by name ("mnist", "mixture2d"), a file or folder of diffusers by path, or "owner/name".

        The last is a model on the Hugging Face Hub, at ``revision``, a branch, tag or commit ("owner/name@revision"
        says the same): safetensors and JSON are fetched once, and nothing of them is executed.

        The suffix picks the backend: PyTorch for .safetensors, ONNX Runtime for .onnx, OpenVINO for .xml,
        TensorRT for .engine. ``device`` None takes CUDA where there is one; one asked for and absent is an error.
        ``dtype`` is that of the network's arithmetic: float32, bfloat16 or float16. State stays float32.
        ``compile`` passes a .safetensors model through ``torch.compile``: a first call takes up to a minute.
        On CUDA, ``sample`` of a .safetensors model captures whole runs without guides, of up to 128 evaluations, as
        CUDA graphs: a first call of a size captures, later ones replay. ``eager`` turns that off.
        """
        path = resolve_model(name_or_path, revision)
        network, spec, on, captured = open_model(path, device, dtype, compile=compile, eager=eager)
        return cls(network, spec, on, captured=captured)

    @classmethod
    def from_denoiser(
        cls, denoise: Denoiser, *, shape: tuple[int, ...], codec: Codec | None = None, sigma_data: float = 1.0,
        device: torch.device | str | None = None,
    ) -> Sampler:  # fmt: skip
        """A sampler of any denoiser E[x_0 | x_0 + σ n = x] of (x [b, *shape], σ [b]), by its exact flow, untrained.

        ``sigma_data`` is the root mean square of x_0; where it is off, more ``mean_flow_steps`` are needed, no others
        drawn. ``codec`` None takes x_0 of three dimensions for images in [-1, 1], which are clamped at last, any other
        for vectors, which are not. The denoiser is tried at two levels: :class:`InvalidArgumentError` says what is
        wrong with what it returns.
        """
        on = resolve_device(device)
        return cls(*given_denoiser(denoise, tuple(shape), codec, sigma_data, on), on)

    def sample(
        self, n: int, *, inference_steps: Steps = None, mean_flow_steps: int | None = None, labels: Labels = None,
        guidance: float = 1.0, seed: int | Noise | None = None, first: int = 0, batch_size: int | None = None,
        batch_invariant: bool = False, progress: bool = False,
    ) -> Float[Tensor, "n *d"]:  # fmt: skip
        """Draw samples ``first`` to ``first + n - 1`` of ``seed``: float32 on the device, images in [-1, 1].

        Sample k of a seed is the same whatever ``n``, ``first`` and ``batch_size``, up to the rounding of the
        network's sums, which depends on the batch. With ``batch_invariant`` it is the same bit for bit: whole
        buckets of 16 neighbours are drawn in place of ``batch_size`` rows, so that sample k is always row
        k mod 16 of 16, and those not asked for are dropped. ``batch_size`` None takes what fits in memory.
        With ``inference_steps`` N and ``mean_flow_steps`` M it costs N x M network evaluations a sample; M is 1 by
        default, of a pretrained denoiser 16. A ``Noise`` as seed names its samples itself.

        ``labels`` are the classes to draw, of a model that has some: one for all, or one each (that of sample
        ``first + i`` is labels[i]), by number or name, or "random": the class of each
        sample is drawn with it, all as likely. None draws from all together, as the model learnt them without labels.
        With ``guidance`` w other than 1 each evaluation is two, without + w (with - without) the labels, but of a
        model that has it inside: above 1 a class's samples are more like each other than the data's, and no longer
        draws of the model's law.
        """
        m = self.spec.flow_steps(mean_flow_steps)
        times = self.spec.grid(inference_steps, m)
        noise = noise_of(seed, n, self.spec, self.device, labels, guidance, first=first, given=bool(self.guides))
        if batch_invariant and isinstance(seed, Noise):
            raise InvalidArgumentError("batch_invariant needs a seed that is an integer: its samples are in order")
        self.spec.codec.prepare(self.spec.shape)

        def run(most: int, advance: Callable[[], None]) -> Run:
            if self.captured is not None and not self.guides and self.captured.fits(times, m):
                return replace(self.captured, most=most, advance=advance, guidance=guidance)
            return EagerRun(lambda steps: self._posterior(steps, guidance), self.spec, advance, bool(self.guides))

        return draw_samples(run, noise, times, m, self.spec.shape, batch_size, batch_invariant, progress)

    def trajectory(
        self, n: int, *, inference_steps: Steps = None, mean_flow_steps: int | None = None, labels: Labels = None,
        guidance: float = 1.0, seed: int | Noise | None = None, first: int = 0,
    ) -> Iterator[tuple[float, Float[Tensor, "n *d"], Float[Tensor, "n *d"]]]:  # fmt: skip
        """Yield (t, x_t, x_0) as sampling goes: where the path is, and the draw of x_0 that led there.

        Both as the network sees them: the last x_t, decoded, is what ``sample`` returns.
        """
        times = self.spec.grid(inference_steps, mean_flow_steps)
        noise = noise_of(seed, n, self.spec, self.device, labels, guidance, first=first, given=bool(self.guides))
        posterior = self._posterior(mean_flow_steps, guidance)
        return reverse_sde(posterior, self.spec.schedule, times, self.spec.shape, noise)

    def transition(
        self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], s: float | Float[Tensor, " b"], *,
        mean_flow_steps: int | None = None, labels: Labels = None, guidance: float = 1.0,
        seed: int | Noise | None = None,
    ) -> Float[Tensor, "b *d"]:  # fmt: skip
        """One step of the reverse SDE: x_s ~ p(x_s | x_t), 0 <= s <= t <= 1, t > 0.

        ``seed`` uses the keys of a run's first step; in a loop of your own pass a fresh ``Noise`` a step.
        """
        x_t, t = state_of(x_t, t, self.spec, self.device)
        s, noise = earlier(s, t), noise_of(seed, len(x_t), self.spec, self.device, labels, guidance)
        x_0 = self._posterior(mean_flow_steps, guidance)(x_t, t, noise.fold(1))
        return self.spec.schedule.bridge(x_0, x_t, t, s, noise.fold(2).normal(*self.spec.shape))

    def posterior(
        self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], *, draws: int = 1,
        mean_flow_steps: int | None = None, labels: Labels = None, guidance: float = 1.0,
        seed: int | Noise | None = None,
    ) -> Float[Tensor, "draws b *d"]:  # fmt: skip
        """``draws`` draws of p(x_0 | x_t) for each sample, as the network sees x_0 (not decoded).

        STMD's are independent; DDPM and Mean Flow know one point a state, so all their draws are equal.
        """
        x_t, t = state_of(x_t, t, self.spec, self.device)
        draws = check_integer("draws", draws, 1)
        noise = noise_of(seed, len(x_t), self.spec, self.device, labels, guidance).fold(1).draws(draws)
        posterior = chunked(self._posterior(mean_flow_steps, guidance))
        x_0 = posterior(x_t.repeat(draws, *[1] * (x_t.ndim - 1)), t.repeat(draws), noise)
        return x_0.reshape(draws, -1, *self.spec.shape)

    @property
    def denoiser(self) -> Denoiser:
        """E[x_0 | x_0 + σ n = x] as the model knows it, of x_0 as its network sees it, all classes together.

        An STMD model has one inside; Mean Flow and target ``mixture`` have none: :class:`InvalidArgumentError`.
        """
        return self.spec.build_denoiser(self.network)

    def push_to_hub(self, name: str, *, certificate: str | Path | None = None, private: bool = False) -> str:
        """Put the model on the Hugging Face Hub as ``owner/name``; the address of the commit.

        A card goes with it, made from the spec and from ``certificate``, the JSON that ``stmd certify`` wrote of this
        model, and a grid of samples. ``private`` is of a repository that does not exist yet. The network must be
        PyTorch's, in float32.
        """
        with model_file(self.network, self.spec) as file:
            return publish_model(name, file, self.spec, self.sample, certificate, private)

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
        spec, y = self.spec, check_measurement(operator, y, self.spec.shape, self.device)
        return self.guided(range_null_guide(operator, y, sigma, spec.schedule, spec.codec, spec.shape, spec.sigma_data))

    def gibbs(
        self, log_likelihood: LogLikelihood, draws: int = 64, *, steps: int | None = None, resample: bool = False,
        mean_flow_steps: int | None = None, labels: Labels = None, seed: int | Noise | None = None,
        progress: bool = False,
    ) -> GibbsDraws:  # fmt: skip
        """Draw p(x_0 | y) by split Gibbs sampling: exact for linear measurements with Gaussian noise, of any spectrum.

        ``log_likelihood`` is a :class:`Measurement` or any function of decoded samples; for what is not linear and
        Gaussian the result says how near it comes. Each of ``steps`` couplings, 40 by default, costs M evaluations a
        draw; draw k of a seed is the same in any batch. With ``resample`` the draws are particles that cooperate,
        exact as they grow also where the posterior has several modes, and estimate the evidence; ``steps`` is then
        the most couplings, 300 by default, and the starts cost N x M more.
        """
        prior, noise = self._prior(mean_flow_steps, "gibbs"), noise_of(seed, draws, self.spec, self.device, labels)
        m = self.spec.flow_steps(mean_flow_steps)
        times = self.spec.grid(None, m)
        return gibbs_draws(
            prior, log_likelihood, noise, times, steps=steps, resample=resample, mean_flow_steps=m, progress=progress
        )

    def chain(
        self, log_likelihood: LogLikelihood, chains: int = 256, *, steps: int = 100,
        levels: Sequence[float] | None = None, tempering: float | None = 0.9, start: Tensor | None = None,
        inference_steps: Steps = None, mean_flow_steps: int | None = None, labels: Labels = None,
        seed: int | Noise | None = None, progress: bool = False,
    ) -> ChainDraws:  # fmt: skip
        """Draw p(x_0 | y) ∝ p(x_0) L(x_0) by Metropolis chains, for any log-likelihood of decoded samples.

        Each of ``steps`` costs M evaluations a chain, the starts (draws of the prior unless given) N x M. With
        ``tempering``, the share of effective chains that raising the likelihood's power may leave, the chains
        cooperate and estimate the evidence; None leaves them independent. ``levels`` are the times that they
        noise to; None takes conditional noising for a linear :class:`Measurement` with Gaussian noise, and five
        times from 0.8 to 0.1 for all others. Draws of pixels are clamped as the data are.
        """
        prior, noise = self._prior(mean_flow_steps, "chain"), noise_of(seed, chains, self.spec, self.device, labels)
        times = self.spec.grid(inference_steps, mean_flow_steps)
        begin = times if start is None else state_of(start, 1.0, self.spec, self.device)[0]
        return chain_draws(
            prior, log_likelihood, noise, begin, steps=steps, levels=levels, tempering=tempering, progress=progress
        )

    def steer(
        self, reward: LogLikelihood, particles: int = 1024, *, inference_steps: Steps = None,
        resample_below: float = 0.5, tempering: float | Sequence[float] = 0.8, mean_flow_steps: int | None = None,
        labels: Labels = None, seed: int | Noise | None = None, progress: bool = False,
    ) -> SteeredDraws:  # fmt: skip
        """Draw p(x_0) exp(reward(x_0)) by sequential Monte Carlo, for any reward of decoded samples.

        Costs N x M evaluations a particle. ``tempering`` is the share of effective particles that the reward's
        rising power may leave, or the powers themselves, one a step and 1 at last.
        """
        prior, noise = self._prior(mean_flow_steps, "steer"), noise_of(seed, particles, self.spec, self.device, labels)
        times = self.spec.grid(inference_steps, mean_flow_steps)
        return steered_draws(
            prior, reward, noise, times, resample_below=resample_below, tempering=tempering, progress=progress
        )

    def _posterior(self, mean_flow_steps: int | None, guidance: float = 1.0) -> Posterior:
        m = self.spec.flow_steps(mean_flow_steps)
        self.spec.check_steps(1, m)
        posterior = self.spec.build_posterior(self.network, m, guidance)
        for guide in self.guides:
            posterior = guide(posterior)
        return posterior

    def _prior(self, mean_flow_steps: int | None, what: str) -> Prior:
        """The model's own posterior in batches, for methods whose mathematics needs draws of it and no others."""
        if self.guides:
            raise InvalidArgumentError(
                f"{what} corrects the model's own draws: start from the sampler without guides, and give the "
                "measurement as its likelihood"
            )
        spec, posterior = self.spec, chunked(self._posterior(mean_flow_steps))
        if not spec.objective.draws:
            known = f"a model of objective {spec.objective.kind!r} knows one point"
            raise InvalidArgumentError(f"{what} needs draws of p(x_0 | x_t); {known}")
        return Prior(posterior, spec.schedule, spec.codec, spec.shape, spec.sigma_data, self.device)
