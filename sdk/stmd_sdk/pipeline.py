"""A model as a pipeline of diffusers: called, saved and loaded as diffusers does, drawing what the sampler draws.

Annotations are evaluated here, since diffusers before 0.36 finds a pipeline's components by their types.
"""

from dataclasses import asdict, replace
from typing import Any, final

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from .backends.torch import TorchNetwork
from .diffusion.labelled import Labels
from .diffusion.loop import Steps, time_grid, times_of_rows
from .diffusion.noise import Noise
from .diffusion.philox import fresh_seed
from .diffusion.schedules import read_schedule
from .errors import InvalidArgumentError
from .images import to_images
from .models.spec import ModelSpec
from .sampler import Sampler

__all__ = ["STMDNetwork", "STMDPipeline", "STMDScheduler"]

SOURCE = "network/config.json"


@final
class STMDNetwork(ModelMixin, ConfigMixin):
    """The network of a spec as a model of diffusers: packed input [b, c_in, *d] and times [b, k] to [b, c, *d]."""

    @register_to_config
    def __init__(self, spec: str) -> None:
        super().__init__()
        with torch.device("cpu"):  # a spec's own numbers are checked, also where the weights are still on none
            described = ModelSpec.from_json(spec, SOURCE)
        self.inner = described.build_network()

    @property
    def spec(self) -> ModelSpec:
        """What the network is and what its output means."""
        return ModelSpec.from_json(self.config["spec"], SOURCE)

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        """Evaluate, in the weights' own precision inside and float32 outside."""
        return self.inner(x.to(self.dtype), times).float()


@final
class STMDScheduler(SchedulerMixin, ConfigMixin):
    """The reverse SDE's own step as a scheduler of diffusers: ``model_output`` is a draw of x_0, as of "sample".

    ``timesteps`` are times t in (0, 1]. ``schedule`` is how a spec says it, as {"kind": "vp", "beta_min": 0.1,
    "beta_max": 20.0}, which is the default.
    """

    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(self, schedule: dict[str, Any] | None = None) -> None:
        self.schedule = read_schedule(schedule)
        self.set_timesteps(4)

    def set_timesteps(self, num_inference_steps: Steps = 4, device: torch.device | str | None = None) -> None:
        """Visit so many times, uniform from 1 on, or the decreasing grid given, from 1 to 0."""
        times = time_grid(4 if num_inference_steps is None else num_inference_steps)
        self.num_inference_steps = len(times) - 1
        self.grid = torch.tensor(times, dtype=torch.float32, device=device)
        self.timesteps = self.grid[:-1]

    def scale_model_input(self, sample: Tensor, timestep: object = None) -> Tensor:
        """The state as it is: the schedule preserves the variance."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: float | Tensor) -> Tensor:
        """x_t = α_t x_0 + σ_t ε."""
        rows = times_of_rows(timesteps, len(original_samples), original_samples.device)
        return self.schedule.marginal(original_samples, rows, noise)

    def step(
        self,
        model_output: Float[Tensor, "b *d"],
        timestep: float | Tensor,
        sample: Float[Tensor, "b *d"],
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor]:
        """x_s of the bridge q(x_s | x_0, x_t), s the next of the times and 0 after the last.

        ``generator`` decides the bridge's noise; without one it is fresh.
        """
        place = int((self.grid - float(timestep)).abs().argmin())
        if place >= self.num_inference_steps or abs(float(self.grid[place]) - float(timestep)) > 1e-6:
            raise InvalidArgumentError(
                f"{float(timestep):g} is none of the scheduler's times {self.timesteps.tolist()}"
            )
        t, s = (self.grid[i].to(sample.device).expand(len(sample)) for i in (place, place + 1))
        seed = fresh_seed() if generator is None else _seed_of(generator)
        epsilon = Noise.of(seed, len(sample), device=sample.device).normal(*sample.shape[1:])
        x_s = self.schedule.bridge(model_output, sample, t, s, epsilon)
        return SchedulerOutput(prev_sample=x_s) if return_dict else (x_s,)


@final
class STMDPipeline(DiffusionPipeline):
    """A model in diffusers' hands: ``save_pretrained``, ``STMDPipeline.from_pretrained`` and ``to`` are diffusers' own.

    Make one of a sampler with :meth:`from_sampler`; ``pipe.sampler`` is one again.
    """

    model_cpu_offload_seq = "network"

    def __init__(self, network: STMDNetwork, scheduler: STMDScheduler) -> None:
        super().__init__()
        self.register_modules(network=network, scheduler=scheduler)

    @classmethod
    def from_sampler(cls, sampler: Sampler) -> "STMDPipeline":
        """The pipeline of a sampler of PyTorch's, whose weights it shares; guides do not go along."""
        if not isinstance(sampler.network, TorchNetwork) or sampler.guides:
            raise InvalidArgumentError("a pipeline holds a model's weights: make it of a .safetensors, without guides")
        with torch.device("meta"):
            network = STMDNetwork(sampler.spec.to_json())
        network.inner = sampler.network.module
        return cls(network.eval(), STMDScheduler(asdict(sampler.spec.schedule)))

    @property
    def sampler(self) -> Sampler:
        """The sampler of the pipeline's network and of its scheduler's schedule."""
        network: STMDNetwork = self.network
        spec = replace(network.spec, schedule=self.scheduler.schedule)

        def evaluate(x: Tensor, times: Tensor, /) -> Tensor:
            with torch.inference_mode(not x.requires_grad):
                return network(x, times)

        return Sampler(evaluate, spec, torch.device(self._execution_device))

    def __call__(
        self,
        batch_size: int = 1,
        num_inference_steps: Steps = None,
        mean_flow_steps: int | None = None,
        labels: Labels = None,
        guidance: float = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draw ``batch_size`` samples; options as of :meth:`Sampler.sample`.

        A generator that was seeded and not used since gives samples 0 to ``batch_size - 1`` of its seed, those of
        ``Sampler.sample(seed=...)``; used again it gives others. Of a list each gives sample 0 of its own.
        ``output_type`` is "pil", pictures; "np", images [b, h, w, c] in [0, 1]; or "pt", [b, c, h, w] in [0, 1].
        What is no image comes as it is, as "np" or "pt".
        """
        if output_type not in ("pil", "np", "pt"):
            raise InvalidArgumentError(f"output_type is 'pil', 'np' or 'pt', got {output_type!r}")
        sampler = self.sampler
        if output_type == "pil" and len(sampler.spec.codec.decoded_shape(sampler.spec.shape)) != 3:
            raise InvalidArgumentError(
                f"samples of {sampler.spec.name} are no images: ask for output_type 'np' or 'pt'"
            )

        def draw(n: int, seed: int | None, of: Labels) -> Tensor:
            steps: dict[str, Any] = {"inference_steps": num_inference_steps, "mean_flow_steps": mean_flow_steps}
            return sampler.sample(n, labels=of, guidance=guidance, seed=seed, **steps)

        if not isinstance(generator, list):
            samples = draw(batch_size, None if generator is None else _seed_of(generator), labels)
        elif len(generator) != batch_size:
            raise InvalidArgumentError(f"{batch_size} samples need as many generators, not {len(generator)}")
        else:
            each = [labels] * batch_size if labels is None or isinstance(labels, (int, str)) else labels
            samples = torch.cat([draw(1, _seed_of(one), of) for one, of in zip(generator, each, strict=True)])
        self.maybe_free_model_hooks()
        images = _as_asked(samples, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)


def _seed_of(generator: torch.Generator) -> int:
    """A generator's seed where it was not used since, else a number of its stream; either way it is used now.

    The one place where a generator decides anything, as diffusers' users expect.
    """
    seed = generator.initial_seed()
    unused = torch.equal(torch.Generator(generator.device).manual_seed(seed).get_state(), generator.get_state())
    drawn = torch.empty((), dtype=torch.int64, device=generator.device).random_(generator=generator)
    return seed if unused else int(drawn)


def _as_asked(samples: Tensor, output_type: str) -> Any:
    if samples.ndim != 4:
        return samples if output_type == "pt" else samples.cpu().numpy()
    if output_type == "pil":
        return [Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image) for image in to_images(samples)]
    shown = (samples / 2 + 0.5).clamp(0, 1)
    return shown if output_type == "pt" else shown.cpu().permute(0, 2, 3, 1).numpy()
