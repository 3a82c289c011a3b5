"""A model in diffusers' hands draws what the sampler draws, before and after diffusers saved and loaded it."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin

from stmd_sdk import (
    CheckpointError,
    InvalidArgumentError,
    Sampler,
    STMDPipeline,
    STMDScheduler,
    VPSchedule,
    to_images,
)
from stmd_sdk.diffusion.cosine import CosineSchedule
from stmd_sdk.operators import Mask
from stmd_sdk.runs.description import describe_file


@pytest.fixture(scope="module")
def sampler():
    return Sampler.from_pretrained("digits", device="cpu")


@pytest.fixture(scope="module")
def folder(sampler, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    STMDPipeline.from_sampler(sampler).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pipe(folder):
    pipe = STMDPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def shown(samples):
    return samples / 2 + 0.5


def test_a_seeded_generator_draws_the_samplers_own_samples(pipe, sampler):
    drawn = pipe(batch_size=3, generator=seeded(5), output_type="pt").images
    assert torch.equal(drawn, shown(sampler.sample(3, seed=5)))
    drawn = pipe(batch_size=2, num_inference_steps=2, generator=seeded(6), output_type="pt").images
    assert torch.equal(drawn, shown(sampler.sample(2, inference_steps=2, seed=6)))
    with pytest.raises(InvalidArgumentError, match="mean_flow_steps: digits takes 1 alone"):
        pipe(batch_size=2, mean_flow_steps=2)


def test_a_generator_that_was_used_draws_others_and_the_same_ones_again(pipe):
    def twice(generator):
        return [pipe(batch_size=2, generator=generator, output_type="pt").images for _ in range(2)]

    (first, second), again = twice(seeded(5)), twice(seeded(5))
    assert not torch.equal(first, second)
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])
    advanced = seeded(5)
    torch.rand(1, generator=advanced)
    assert not torch.equal(pipe(batch_size=2, generator=advanced, output_type="pt").images, first)


def test_each_generator_of_a_list_draws_its_own_first_sample(pipe, sampler):
    drawn = pipe(batch_size=2, generator=[seeded(1), seeded(9)], output_type="pt").images
    torch.testing.assert_close(drawn, shown(torch.cat([sampler.sample(1, seed=1), sampler.sample(1, seed=9)])))
    with pytest.raises(InvalidArgumentError, match="3 samples need as many generators, not 2"):
        pipe(batch_size=3, generator=[seeded(1), seeded(9)])


def test_the_outputs_are_one_picture_in_three_forms(pipe, sampler):
    pictures, arrays, tensors = (
        pipe(batch_size=2, generator=seeded(0), output_type=kind, return_dict=False)[0] for kind in ("pil", "np", "pt")
    )
    assert np.array_equal(arrays, tensors.permute(0, 2, 3, 1).numpy())
    pixels = to_images(sampler.sample(2, seed=0))[..., 0]
    assert all(np.array_equal(np.asarray(picture), own) for picture, own in zip(pictures, pixels, strict=True))
    assert abs(arrays[..., 0] * 255 - pixels).max() <= 0.5
    with pytest.raises(InvalidArgumentError, match="output_type is 'pil', 'np' or 'pt'"):
        pipe(output_type="latent")


def test_its_sampler_is_the_one_it_was_made_of(pipe, sampler):
    assert pipe.sampler.spec == sampler.spec
    assert torch.equal(pipe.sampler.sample(2, seed=1), sampler.sample(2, seed=1))


def test_its_folder_holds_safetensors_and_json_alone(folder):
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}
    assert files == {
        "model_index.json",
        "network/config.json",
        "network/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
    }
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] == "STMDPipeline"


def test_its_folder_is_a_model_to_everything_that_takes_one(folder, sampler):
    opened = Sampler.from_pretrained(folder, device="cpu")
    assert opened.spec == sampler.spec
    assert torch.equal(opened.sample(2, seed=1), sampler.sample(2, seed=1))
    alone = Sampler.from_pretrained(folder / "network", device="cpu")
    assert torch.equal(alone.sample(2, seed=1), sampler.sample(2, seed=1))
    assert describe_file(str(folder))[1:] == describe_file("digits")[1:]


def test_the_schedule_of_the_folder_is_that_of_its_scheduler(sampler, tmp_path):
    pipe = STMDPipeline.from_sampler(sampler)
    STMDPipeline(pipe.network, STMDScheduler({"kind": "cosine"})).save_pretrained(tmp_path)
    assert Sampler.from_pretrained(tmp_path, device="cpu").spec.schedule == CosineSchedule()
    DDPMScheduler().save_pretrained(tmp_path / "scheduler")
    with pytest.raises(CheckpointError, match="a DDPMScheduler, and this project's network goes with STMDScheduler"):
        Sampler.from_pretrained(tmp_path)
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(
        '{"_class_name": "STMDScheduler", "schedule": {"kind": "karras"}}'
    )
    with pytest.raises(CheckpointError, match=r"scheduler_config.json: schedule"):
        Sampler.from_pretrained(tmp_path)


@pytest.mark.parametrize("damage", ['{"_class_name": "STMDNetwork"}', '{"_class_name": "STMDNetwork", "spec": "{}"}'])
def test_a_folder_whose_spec_is_none_says_so(folder, damage, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "network" / "config.json").write_text(damage)
    with pytest.raises(CheckpointError, match=r"network/config.json"):
        Sampler.from_pretrained(copy)


@pytest.mark.parametrize("name", ["mixture2d", "mixture64", "mnist"])
def test_vectors_and_classes_and_local_gaussians_survive_a_folder(name, tmp_path):
    sampler = Sampler.from_pretrained(name, device="cpu")
    STMDPipeline.from_sampler(sampler).save_pretrained(tmp_path)
    opened = Sampler.from_pretrained(tmp_path, device="cpu")
    assert opened.spec == sampler.spec
    assert torch.equal(opened.sample(2, seed=3), sampler.sample(2, seed=3))


def test_vectors_come_as_they_are():
    vectors = Sampler.from_pretrained("mixture2d", device="cpu")
    pipe = STMDPipeline.from_sampler(vectors)
    drawn = pipe(batch_size=4, generator=seeded(2), output_type="pt").images
    assert torch.equal(drawn, vectors.sample(4, seed=2))
    assert np.array_equal(pipe(batch_size=4, generator=seeded(2), output_type="np").images, drawn.numpy())
    with pytest.raises(InvalidArgumentError, match="are no images: ask for output_type"):
        pipe()


def test_what_a_pipeline_cannot_hold_is_refused(sampler):
    guided = sampler.condition(Mask(torch.ones(1, 8, 8)), torch.zeros(1, 8, 8))
    bare = Sampler(lambda x, times: x[:, :1], sampler.spec, sampler.device)
    for one in (guided, bare):
        with pytest.raises(InvalidArgumentError, match="a pipeline holds a model's weights"):
            STMDPipeline.from_sampler(one)


def test_the_scheduler_is_saved_and_loaded_with_its_schedule(tmp_path):
    STMDScheduler({"kind": "vp", "beta_min": 0.2, "beta_max": 12.0}).save_pretrained(tmp_path)
    assert STMDScheduler.from_pretrained(tmp_path).schedule == VPSchedule(0.2, 12.0)
    assert STMDScheduler().schedule == VPSchedule()
    with pytest.raises(InvalidArgumentError, match="schedule"):
        STMDScheduler({"kind": "karras"})


def test_a_step_of_the_scheduler_is_the_bridge():
    """Mean and variance over many rows, from the closed form (19) written out."""
    scheduler, n = STMDScheduler(), 40_000
    scheduler.set_timesteps([1.0, 0.6, 0.3, 0.0])
    x_0, x_t = torch.full((n, 1), 0.7), torch.full((n, 1), -1.3)
    x_s = scheduler.step(x_0, 0.6, x_t, generator=seeded(1)).prev_sample
    log_alpha = {t: -0.25 * t**2 * 19.9 - 0.05 * t for t in (0.6, 0.3)}
    alpha = {t: float(np.exp(value)) for t, value in log_alpha.items()}
    a = alpha[0.6] / alpha[0.3]
    var_t, var_s, v = 1 - alpha[0.6] ** 2, 1 - alpha[0.3] ** 2, 1 - a**2
    assert float(x_s.mean()) == pytest.approx((a * var_s * -1.3 + alpha[0.3] * v * 0.7) / var_t, abs=0.02)
    assert float(x_s.var()) == pytest.approx(var_s * v / var_t, rel=0.03)
    assert torch.equal(scheduler.step(x_0, torch.tensor(0.3), x_t).prev_sample, x_0)  # s = 0
    noisy = scheduler.add_noise(x_0, torch.ones_like(x_0), 0.6)
    torch.testing.assert_close(noisy, torch.full_like(x_0, alpha[0.6] * 0.7 + var_t**0.5))
    with pytest.raises(InvalidArgumentError, match=r"0\.5 is none of the scheduler's times"):
        scheduler.step(x_0, 0.5, x_t)


class Known(ModelMixin, ConfigMixin):
    """A model of diffusers that always draws the same x_0, and notes when it was asked."""

    @register_to_config
    def __init__(self, sample_size=8, in_channels=1):
        super().__init__()
        self.x_0, self.asked = torch.nn.Parameter(torch.tensor(0.25)), []

    def forward(self, x, t):
        self.asked.append(float(t))
        return SimpleNamespace(sample=self.x_0.expand_as(x))


def test_a_pipeline_of_diffusers_own_takes_the_scheduler():
    pipe = DDPMPipeline(unet=Known(), scheduler=STMDScheduler())
    pipe.set_progress_bar_config(disable=True)
    drawn = pipe(batch_size=2, num_inference_steps=5, generator=seeded(0), output_type="np").images
    assert pipe.unet.asked == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])
    assert np.array_equal(drawn, np.full((2, 8, 8, 1), 0.625, np.float32))
