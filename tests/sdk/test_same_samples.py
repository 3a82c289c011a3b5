"""What the bundled models drew at commit 45ec225, `digits` at 92b0255, they draw still, whatever was rebuilt."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stmd_sdk import Noise, Sampler
from stmd_sdk.models.checkpoint import bundled_models

REFERENCE = Path(__file__).parent / "reference-draws.npz"


def draws(model):
    """A few draws of each kind, NumPy arrays by name."""
    sampler = Sampler.from_pretrained(model, device="cpu")
    sampler = replace(sampler, spec=replace(sampler.spec, one_flow_step=""))  # M = 2 is drawn too
    x_t = Noise.of(11, 2).normal(*sampler.spec.shape)
    found = {
        "sample-1": sampler.sample(2, inference_steps=1, seed=0),
        "sample-default": sampler.sample(2, seed=3, first=5),
        "sample-grid": sampler.sample(1, inference_steps=[1.0, 0.6, 0.2, 0.0], mean_flow_steps=2, seed=1),
        "posterior": sampler.posterior(x_t, 0.5, draws=2, seed=4),
        "transition": sampler.transition(x_t, torch.tensor([0.8, 1.0]), 0.4, seed=5),
    }
    return {f"{model}-{kind}": values.numpy() for kind, values in found.items()}


@pytest.mark.parametrize("model", ["digits", "mixture2d", "mixture64", "mnist"])
def test_bundled_models_draw_what_they_drew(model):
    with np.load(REFERENCE) as reference:
        for kind, values in draws(model).items():
            np.testing.assert_allclose(values, reference[kind], atol=1e-5, rtol=0, err_msg=kind)


def test_another_default_dtype_changes_no_bit():
    expected = {name: Sampler.from_pretrained(name).sample(2, seed=5, inference_steps=2) for name in bundled_models()}
    torch.set_default_dtype(torch.float64)
    try:
        drawn = {name: Sampler.from_pretrained(name).sample(2, seed=5, inference_steps=2) for name in bundled_models()}
    finally:
        torch.set_default_dtype(torch.float32)
    for name, samples in expected.items():
        assert drawn[name].dtype == torch.float32
        assert torch.equal(drawn[name], samples), name
