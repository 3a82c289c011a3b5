"""What is measured before training: local Gaussians follow the density, the same samples give the same ones."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from stmd_sdk import Noise, Sampler, VPSchedule
from stmd_sdk.codecs.codec import VectorCodec
from stmd_sdk.data.arrays import ArrayData
from stmd_sdk.data.load import load_data
from stmd_sdk.errors import InvalidArgumentError, MissingExtraError
from stmd_sdk.evaluation import certify_model, kernel_certificate, mixture
from stmd_sdk.mixtures.local import LocalGaussians, MixtureTarget
from stmd_sdk.models.checkpoint import load_model
from stmd_training import fitting
from stmd_training.fitting import fit_local_gaussians, measured_spec
from stmd_training.recipe import load_recipe
from stmd_training.run import TrainingRun
from stmd_training.smoke import smoke_test

SCHEDULE = VPSchedule()
SHORT = ("network={kind='mlp', width=16, depth=1}", "batch_size=32", "steps=6", "checkpoint_every=3", "log_every=1")


def test_more_clusters_than_modes_follow_the_density():
    law = mixture("mixture2d")
    target = MixtureTarget(SCHEDULE, fit_local_gaussians(law.sample(Noise.of(0, 50_000)), 32))

    def posterior(x_t, t, noise):
        return target.decode(noise.normal(2), x_t, t)

    found = kernel_certificate(posterior, law, SCHEDULE, pairs=4000)
    for one in found.findings:
        error = abs(one.estimate.value - one.target)
        assert one.tolerance is None or error < one.tolerance + 3 * one.estimate.error, one


def test_the_same_samples_give_the_same_gaussians_whatever_the_threads():
    x, threads = mixture("mixture8").sample(Noise.of(0, 20_000)), torch.get_num_threads()
    try:
        found = []
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(fit_local_gaussians(x, 8).parameters)
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]


def test_samples_that_cannot_be_clustered_are_refused(monkeypatch):
    with pytest.raises(InvalidArgumentError, match="64 in 2 dimensions need at least 192 samples, not 100"):
        fit_local_gaussians(Noise.of(0, 100).normal(2), 64)
    lone = torch.cat([Noise.of(0, 50).normal(2), torch.tensor([[1e4, 0.0]])])
    with pytest.raises(InvalidArgumentError, match="take fewer"):
        fit_local_gaussians(lone, 2)
    digits = load_data("digits")
    with pytest.raises(InvalidArgumentError, match="for vectors"):
        measured_spec(load_recipe("digits", ("target=mixture", "clusters=4")), digits)
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(MissingExtraError, match=r"stmd-sdk\[train\]"):
        fit_local_gaussians(Noise.of(0, 100).normal(2), 2)


def test_flat_directions_and_files_in_order_of_classes_are_no_trouble(monkeypatch):
    # Two classes, one after the other, whose second coordinate never moves.
    x = torch.cat([torch.full((500,), -2.0), torch.full((500,), 2.0)]) + 0.1 * Noise.of(0, 1000).normal()
    data = ArrayData("flat", torch.stack([x, torch.ones(1000)], dim=1), VectorCodec())
    monkeypatch.setattr(fitting, "SAMPLES", 200)
    recipe = load_recipe("mixture2d-local", ("clusters=2",))
    components = measured_spec(recipe, data).local_gaussians.components
    assert components.means[:, 0].sort().values == pytest.approx([-2, 2], abs=0.05)
    assert components.means[:, 1] == pytest.approx([1, 1])
    assert (components.eigenvalues > 0).all()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("clusters=0",), "clusters"),
        (("target=residual",), "clusters"),
        (("error_of=x0",), "error_of"),
    ],
)
def test_a_recipe_that_does_not_fit_its_target_is_refused(settings, says):
    with pytest.raises(InvalidArgumentError, match=says):
        load_recipe("mixture2d-local", settings)


def test_an_interrupted_run_from_local_gaussians_goes_on_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "SAMPLES", 2000)
    recipe, data = load_recipe("mixture2d-local", (*SHORT, "clusters=8")), mixture("mixture2d")
    whole = TrainingRun(recipe, data, tmp_path / "whole")(progress=False)
    TrainingRun(replace(recipe, steps=3, decay="constant"), data, tmp_path / "short")
    stopping = TrainingRun(recipe, data, tmp_path / "parts")

    class StoppedError(Exception):
        pass

    def stop(run, step, *rest):
        after(run, step, *rest)
        if step.step == 3:
            raise StoppedError

    after = TrainingRun._after
    monkeypatch.setattr(TrainingRun, "_after", stop)
    with pytest.raises(StoppedError):
        stopping(progress=False)
    monkeypatch.setattr(TrainingRun, "_after", after)
    parts = TrainingRun(recipe, data, tmp_path / "parts")(progress=False)
    (spec, network), (other_spec, other) = load_model(whole), load_model(parts)
    assert spec.local_gaussians == other_spec.local_gaussians
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_a_run_from_a_trained_base_keeps_the_bases_gaussians():
    recipe, law = load_recipe("mixture2d-local", ("clusters=2",)), mixture("mixture2d")
    own = LocalGaussians.of(law.weights, law.means, law.covariances)
    spec = measured_spec(recipe, law, recipe.model_spec(0.5, {}, own))
    assert (spec.local_gaussians, spec.sigma_data) == (own, 0.5)


def test_the_smoke_of_a_recipe_with_local_gaussians(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "SAMPLES", 5000)
    recipe, data = smoke_test(load_recipe("mixture3-local"), tmp_path)
    spec, _ = load_model(TrainingRun(recipe, data, tmp_path / "run")(progress=False))
    assert (spec.objective.target, spec.local_gaussians.clusters) == ("mixture", 64)


def test_a_model_without_a_network_draws_the_fits_own_posterior(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "SAMPLES", 50_000)
    law = mixture("mixture2d")
    recipe = load_recipe("local-gaussians", ("data=mixture2d", "shape=[2]", "clusters=64"))
    sampler = Sampler.from_pretrained(TrainingRun(recipe, law, tmp_path)(progress=False))
    x_t, t = law.sample(Noise.of(1, 500)), torch.full((500,), 0.4)
    drawn, target = Noise.of(2, 500), MixtureTarget(SCHEDULE, sampler.spec.local_gaussians)
    # Whatever M, the flow from noise to noise is the identity.
    for m in (1, 2, 5):
        own = sampler.spec.build_posterior(sampler.network, m)(x_t, t, drawn)
        assert (own - target.decode(drawn.normal(2), x_t, t)).abs().max() < 1e-4
    held_out = tmp_path / "held-out.npz"
    np.savez(held_out, x=law.sample(Noise.of(3, 2048)).numpy())
    model = tmp_path / "model.safetensors"
    assert certify_model(model, str(held_out), out=tmp_path / "report", pairs=2048).passed
    with pytest.raises(InvalidArgumentError, match="target 'mixture'"):
        _ = sampler.denoiser


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("local-gaussians", ("steps=10",)),
        ("mixture2d-local", ("steps=0",)),
        ("mixture2d-local", ("network=none",)),
        ("mixture2d", ("network=none", "steps=0")),
        ("local-gaussians", ("classes=3",)),
    ],
)
def test_no_network_is_for_no_steps_of_a_fitted_mixture(name, settings):
    with pytest.raises(InvalidArgumentError, match="network: 'none' is for steps = 0"):
        load_recipe(name, settings)


def test_data_that_the_gaussians_fit_leave_nothing_to_correct():
    law = mixture("mixture2d")
    own = LocalGaussians.of(law.weights, law.means, law.covariances)
    recipe = load_recipe("mixture2d-local", ("learned_weights=false",))
    loss = recipe.loss(recipe.model_spec(1.0, {}, own), None)

    def significance(*at):
        """The gradient by a correction shift + scale z, over its standard error: 20 batches."""
        shift, scale = (torch.tensor(value, requires_grad=True) for value in at)

        def gradient(i):
            x_0, key = law.sample(Noise.of(i, 1000)), Noise.of(100 + i, 1000)
            value = loss(lambda x, times: shift + scale * x[:, :2], x_0, key).mean()
            return torch.stack(torch.autograd.grad(value, (shift, scale)))

        gradients = torch.stack([gradient(i) for i in range(20)])
        return (gradients.mean(dim=0) / gradients.std(dim=0) * 20**0.5).abs()

    assert significance(0.0, 0.0).max() < 4
    assert significance(0.1, 0.0)[0] > 8
    assert significance(0.0, 0.1)[1] > 8
