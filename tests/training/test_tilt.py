"""Laws of tilting: weights, exact Gaussian answers, what is refused, and a run that learns the tilted law."""

import json
import math
import os
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from stmd_sdk import InferenceError, InferenceWarning, InvalidArgumentError, ModelSpec, Noise, Sampler, TrainingError
from stmd_sdk.codecs.codec import VectorCodec
from stmd_sdk.data.arrays import ArrayData, WeightedData
from stmd_sdk.evaluation import conditioned, energy_distance, mixture
from stmd_sdk.models.checkpoint import load_model, read_spec
from stmd_sdk.models.objective import STMD
from stmd_sdk.networks import MLPConfig
from stmd_training.batches import POOL, batches_of
from stmd_training.run import TrainingRun
from stmd_training.tilt import import_energy, load_base, tilt_facts, tilted_pool, tilted_recipe

CPU = torch.device("cpu")
CENTRE, WIDTH = (1.0, 0.5), 0.8


def near(x):
    """½ ‖x - c‖² / w²: the tilted mixture is the mixture given y = x + N(0, w² I) at c."""
    return ((x - x.new_tensor(CENTRE)) / WIDTH).square().sum(dim=1) / 2


def weighted(log_weights):
    array = torch.arange(len(log_weights), dtype=torch.float32)[:, None]
    return WeightedData(ArrayData("numbers", array, VectorCodec()), torch.tensor(log_weights))


@pytest.fixture
def gaussian(average_velocity):
    """A sampler that draws N(0.5, 0.8² I) in two dimensions, exactly."""
    spec = ModelSpec("gaussian", STMD("residual"), (2,), MLPConfig(width=8, depth=1), VectorCodec())
    return Sampler(average_velocity(spec.objective.flow_target(spec.measured), 0.5, 0.8), spec, CPU)


def test_samples_are_drawn_in_proportion_to_their_weights():
    shares = torch.tensor([0.0, 0.1, 0.2, 0.0, 0.7, 0.0])
    data, n = weighted((shares.log() + 3).tolist()), 20_000
    counts = torch.bincount(data.sample(Noise.of(0, n))[:, 0].long(), minlength=6)
    assert (counts[shares == 0] == 0).all()
    possible = shares > 0
    expected = n * shares[possible]
    # Chi-square with two degrees of freedom: 13.8 at level 0.001.
    assert float(((counts[possible] - expected).square() / expected).sum()) < 13.8
    assert data.root_mean_square() == pytest.approx(math.sqrt(0.1 + 0.2 * 4 + 0.7 * 16))
    batches = batches_of(data, 50, seed=3)
    assert torch.equal(batches(7), batches_of(data, 50, seed=3)(7))
    assert not torch.equal(batches(7), batches(8))


def test_the_facts_of_known_weights():
    assert tilt_facts(weighted([2.0] * 8)) == pytest.approx(
        {"pool": 8, "pool_effective": 8, "log_normaliser": 2, "kl_to_base": 0}
    )
    half = tilt_facts(weighted([0.0, -math.inf] * 4))
    assert half["pool_effective"] == pytest.approx(4)
    assert half["log_normaliser"] == pytest.approx(-math.log(2))
    assert half["kl_to_base"] == pytest.approx(math.log(2))


def test_a_gaussian_pool_gives_the_exact_normaliser_divergence_and_tilted_mean(gaussian):
    """E = aᵀx of N(m, s² I): log Z = -β aᵀm + β² s² ‖a‖² / 2, KL = β² s² ‖a‖² / 2, mean m - β s² a."""
    a, beta, n = torch.tensor([0.8, -0.4]), 0.5, 20_000
    data = tilted_pool(gaussian, lambda x: x @ a, Noise.of(0, n), beta=beta)
    facts, kl = tilt_facts(data), 0.5 * beta**2 * 0.64 * float(a @ a)
    # Five standard errors: the relative variance of the weights is exp(2 kl) - 1, that of E_W[log w] below it.
    error = 5 * math.sqrt(math.expm1(2 * kl) / n)
    assert facts["log_normaliser"] == pytest.approx(-beta * 0.5 * float(a.sum()) + kl, abs=error)
    assert facts["kl_to_base"] == pytest.approx(kl, abs=error)
    assert facts["pool_effective"] / n == pytest.approx(math.exp(-2 * kl), abs=error)
    drawn = batches_of(data, n, seed=1)(0)
    assert (drawn.mean(0) - (0.5 - beta * 0.64 * a)).abs().max() < 5 * 0.8 * math.sqrt(2 / n) * math.exp(kl)


def test_too_few_effective_samples_are_refused_with_the_power_that_would_do(gaussian):
    noise = Noise.of(0, 4000)  # of which a tenth is more than the least that is asked for

    def steep(x):
        return 6 * x.sum(dim=1)

    with pytest.raises(TrainingError, match=r"effective samples of a pool of 4000: too few.*--beta") as refused:
        tilted_pool(gaussian, steep, noise)
    gentle = float(str(refused.value).split("--beta ")[1].split()[0])
    share = tilt_facts(tilted_pool(gaussian, steep, noise, beta=gentle * 0.98))["pool_effective"] / 4000
    assert 0.1 < share < 0.15
    with pytest.warns(InferenceWarning, match="the model will repeat them"):
        tilted_pool(gaussian, steep, noise, beta=1.2 * gentle)
    with pytest.raises(TrainingError, match="leaves 0 effective"):
        tilted_pool(gaussian, lambda x: x.sum(1) + math.inf, noise)
    with pytest.raises(InvalidArgumentError, match="pool must be"):
        tilted_pool(gaussian, steep, noise[:50])
    with pytest.raises(InvalidArgumentError, match="beta must be positive"):
        tilted_pool(gaussian, steep, noise, beta=0.0)


@pytest.mark.parametrize(
    ("energy", "error", "complaint"),
    [
        (lambda x: x, InvalidArgumentError, r"energy's negative must be one number a sample, a tensor \[200\]"),
        (lambda x: x.sum(1).tolist(), InvalidArgumentError, "got list"),
        (lambda x: x.sum(1) * math.nan, InferenceError, "NaN or .inf for 200 of 200"),
        (lambda x: x.sum(1) - math.inf, InferenceError, "NaN or .inf"),
    ],
)
def test_energies_that_mean_nothing_are_refused(gaussian, energy, error, complaint):
    with pytest.raises(error, match=complaint):
        tilted_pool(gaussian, energy, Noise.of(0, 200))


def test_an_energy_is_imported_by_name(tmp_path, monkeypatch):
    (tmp_path / "my_energies.py").write_text("import torch\nlevel = 3\ndef near(x):\n    return x.sum(1)\n")
    (tmp_path / "my_broken.py").write_text("import no_such_package\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert import_energy("my_energies:near")(torch.ones(2, 3)).tolist() == [3, 3]
    for name, complaint in [
        ("my_energies", "expected module:function"),
        ("my_absent:near", "no module my_absent"),
        ("my_energies:far", "no function far"),
        ("my_energies:level", "level is no function"),
        ("my_broken:near", "imports no_such_package"),
    ]:
        with pytest.raises(InvalidArgumentError, match=complaint):
            import_energy(name)


def test_a_recipe_that_makes_another_model_is_refused(tmp_path):
    spec = load_base("mixture2d").spec
    recipe = tilted_recipe(spec, None, ("steps=7",), "data")
    assert (recipe.name, recipe.steps, recipe.data) == ("mixture2d-tilted", 7, "data")
    assert recipe.model_spec(spec.sigma_data, {}).network == spec.network
    for settings, complaint in [(("network.width=64",), "network differ"), (("target=x0",), "objective differ")]:
        with pytest.raises(InvalidArgumentError, match=complaint):
            tilted_recipe(spec, None, settings, "data")
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(InvalidArgumentError, match=r"give its \.safetensors file"):
        load_base(str(tmp_path / "model.onnx"))


def _tilting(folder, *settings, monitors=()):
    """A run that tilts the bundled mixture2d by ``near``, of a few steps."""
    base = load_base("mixture2d")
    recipe = tilted_recipe(base.spec, None, ("batch_size=128", "log_every=1", *settings), "tilted")
    sampler = Sampler.from_pretrained("mixture2d", device=CPU)
    data = tilted_pool(sampler, near, Noise.of(recipe.seed, 4096).fold(POOL), inference_steps=8)
    return TrainingRun(recipe, data, folder, monitors=monitors, base=base, facts=tilt_facts(data))


def test_a_run_starts_from_the_base_and_keeps_its_sigma_and_the_facts(tmp_path):
    path = _tilting(tmp_path, "steps=1", "learning_rate=1e-12")(progress=False)
    spec, network = load_model(path)
    base = load_base("mixture2d")
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, base.weights[name], rtol=0, atol=1e-9)
    assert spec.sigma_data == base.spec.sigma_data
    first = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    facts = {key: value for key, value in first.items() if key != "step"}
    assert first["step"] == 0
    assert facts.keys() == {"pool", "pool_effective", "log_normaliser", "kl_to_base"}
    assert facts.items() <= read_spec(path).training.items()
    # The exact normaliser and divergence of a tilted mixture; 0.05 covers the base's own error.
    law, log_evidence = conditioned(mixture("mixture2d"), torch.eye(2), torch.tensor(CENTRE), WIDTH)
    log_z = log_evidence + math.log(2 * math.pi * WIDTH**2)
    assert facts["log_normaliser"] == pytest.approx(log_z, abs=0.05)
    assert facts["kl_to_base"] == pytest.approx(-float(near(law.sample(Noise.of(0, 50_000))).mean()) - log_z, abs=0.05)


def test_an_interrupted_run_ends_as_an_uninterrupted_one(tmp_path):
    settings = ("steps=6", "checkpoint_every=2", "sample_every=4")

    def interrupt(sampler):
        raise KeyboardInterrupt

    _tilting(tmp_path / "whole", *settings)(progress=False)
    with pytest.raises(KeyboardInterrupt):
        _tilting(tmp_path / "cut", *settings, monitors=(interrupt,))(progress=False)
    _tilting(tmp_path / "cut", *settings)(progress=False)
    whole, cut = (load_file(tmp_path / run / "model.safetensors") for run in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_short_run_learns_most_of_the_tilt(tmp_path):
    path = _tilting(tmp_path, "steps=60", "learning_rate=1e-3", "warmup_steps=5", "ema=0.9")(progress=False)
    law, _ = conditioned(mixture("mixture2d"), torch.eye(2), torch.tensor(CENTRE), WIDTH)
    exact = law.sample(Noise.of(1, 2000))
    base, tilted = (
        energy_distance(Sampler.from_pretrained(model, device=CPU).sample(2000, inference_steps=4, seed=2), exact)
        for model in ("mixture2d", path)
    )
    assert tilted < 0.05 * base


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--init", "mixture2d", "--energy", "math"], "expected module:function"),
        (["--init", "nothing", "--energy", "math:sqrt"], "no model 'nothing'"),
        (["--init", "mixture2d", "--energy", "operator:neg"], "must be one number a sample"),
        (["--init", "mixture2d", "--energy", "operator:neg", "--pool", "20"], "pool must be"),
    ],
)
def test_the_command_line_answers_bad_input_with_exit_code_2(tmp_path, monkeypatch, capsys, arguments, complaint):
    from stmd_training import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["stmd-train", "tilt", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_what_a_model_says_of_its_recipe_never_names_a_file_to_read(tmp_path):
    spec = load_base("mixture2d").spec
    os.mkfifo(tmp_path / "pipe.toml")  # which would be read for ever
    foreign = replace(spec, training={**spec.training, "recipe": str(tmp_path / "pipe.toml")})
    with pytest.raises(InvalidArgumentError, match="give its TOML file with --recipe"):
        tilted_recipe(foreign, None, (), "data")


def test_files_of_the_working_directory_are_not_taken_for_libraries(tmp_path, monkeypatch):
    (tmp_path / "tensorboard.py").write_text("raise SystemExit('executed')")
    (tmp_path / "helper_of_energy.py").write_text("SHIFT = 1.0")
    (tmp_path / "energy_here.py").write_text(
        "from helper_of_energy import SHIFT\n\ndef near(x):\n    return x.sum(1) + SHIFT\n"
    )
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    energy = import_energy("energy_here:near")
    assert energy(torch.ones(1, 2)).tolist() == [3.0]
    assert sys.path == before
    assert import_energy("energy_here:near") is energy
    (tmp_path / "json.py").write_text("def near(x):\n    return x")
    with pytest.raises(InvalidArgumentError, match="in use"):
        import_energy("json:near")


def test_an_energy_of_booleans_is_refused():
    sampler = Sampler.from_pretrained("mixture2d")
    with pytest.raises(InvalidArgumentError, match="booleans"):
        tilted_pool(sampler, lambda x: x[:, 0] > 0, Noise.of(0, 128), inference_steps=1)
