"""Laws of training: purity in (seed, step), resuming, refusing what cannot go on."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from stmd_sdk.data.load import load_data
from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.errors import CheckpointError, DataError, InvalidArgumentError, OutputError, TrainingError
from stmd_sdk.mixtures.local import LocalGaussians
from stmd_sdk.models.checkpoint import load_model
from stmd_sdk.models.objective import DDPM, STMD
from stmd_sdk.networks import MLPConfig
from stmd_training.batches import batches_of
from stmd_training.recipe import load_recipe, recipe_names
from stmd_training.run import TrainingRun
from stmd_training.scores import EnergyScore
from stmd_training.state import load_state, save_state
from stmd_training.steps import TrainState, learning_rate
from stmd_training.trainer import train

TINY = (
    "network={kind='mlp', width=16, depth=1}",
    "batch_size=32",
    "steps=8",
    "checkpoint_every=4",
    "log_every=1",
)
CPU = torch.device("cpu")


def tiny(*settings, name="mixture2d-calibrated"):
    return load_recipe(name, (*TINY, "sample_every=100", *settings))


def started(recipe):
    data = load_data(recipe.data)
    spec = recipe.model_spec(1.0, {})
    state = TrainState.fresh(spec, recipe, CPU)
    loss = recipe.loss(spec, state.loss_weights)
    return state, train(state, loss, batches_of(data, recipe.batch_size, recipe.seed), recipe)


def weights(state):
    return {name: parameter.detach().clone() for name, parameter in state.parameters.items()}


def test_every_bundled_recipe_is_read_and_builds_its_loss():
    names = recipe_names()
    assert {"digits", "mixture2d", "mixture64", "mnist", "mnist-compact", "cifar10", "celeba"} <= set(names)
    for name in names:
        recipe = load_recipe(name)
        calibrated, fitted = name.endswith(("-calibrated", "-classes")), recipe.steps == 0
        local = name.endswith("-local") or fitted
        (d, *_), one = recipe.shape, torch.ones(1, dtype=torch.float64)
        round_one = LocalGaussians.of(one, torch.zeros(1, d), torch.eye(d)[None]) if local else None
        spec = recipe.model_spec(1.0, {}, round_one)
        assert recipe.loss(spec, None)
        assert getattr(recipe.objective, "target", "x0") == (
            "mixture" if local else "residual" if calibrated else "x0"
        ), name
        assert (recipe.energy_score.weight > 0) == ((calibrated or local) and not fitted), name
        of, _, variant = name.rpartition("-")
        baseline = variant in ("meanflow", "ddpm")
        assert recipe.objective.kind == (variant if baseline else "stmd"), name
        assert (calibrated or baseline or local) == (f"{name}-calibrated" not in names), name
        if baseline:  # equal networks, steps and data
            assert replace(recipe, objective=STMD(), name=of) == load_recipe(of)


def test_settings_override_nested_keys_and_name_what_they_do_not_know():
    recipe = load_recipe("digits", ("flow.power=0.5", "flow.times.moving_share=1", "target=residual"))
    assert (recipe.flow.power, recipe.flow.times.moving_share, recipe.objective.target) == (0.5, 1.0, "residual")
    for setting, complaint in [
        ("flow.pover=1", "flow.pover"),
        ("steps=many", "steps"),
        ("steps=0", "steps"),
        ("steps", "key=value"),
        ("network=unet-huge", "unet-huge"),
        ("target=x1", "target"),
        ("flow.times.uniform_share=2", "uniform_share"),
        ("objective=ddpm", None),
    ]:
        if complaint is None:
            assert load_recipe("digits", (setting,)).objective == DDPM()
            continue
        with pytest.raises(InvalidArgumentError, match=complaint):
            load_recipe("digits", (setting,))
    with pytest.raises(InvalidArgumentError, match="digits-calibrated"):
        load_recipe("no-such-recipe")


def test_a_recipe_file_builds_on_another(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('base = "digits-calibrated"\nsteps = 7\n[flow]\npower = 0.25\n')
    mine, base = load_recipe(str(path)), load_recipe("digits-calibrated")
    assert mine == replace(base, name="mine", steps=7, flow=replace(base.flow, power=0.25))


def test_batches_visit_every_sample_once_an_epoch_in_changing_order():
    data = load_data("digits")
    n = len(data)
    batches = batches_of(data, 50, seed=3)
    steps = [batches(step) for step in range(2 * n // 50)]
    images = torch.cat(steps).flatten(1)
    epochs = images[: (2 * n // 50) * 50].split(n)
    everything = data[torch.arange(n)].flatten(1)
    assert torch.equal(epochs[0].sum(0), everything.sum(0))
    assert torch.equal(epochs[0].sort(0).values, everything.sort(0).values)
    assert not torch.equal(epochs[0][:100], epochs[1][:100])
    # A pure function of the step: asked again, and out of order.
    fresh = batches_of(data, 50, seed=3)
    assert torch.equal(fresh(37), steps[37])
    assert torch.equal(fresh(2), steps[2])


def test_the_learning_rate_warms_up_and_ends_at_zero():
    recipe = load_recipe("digits", ("steps=100", "warmup_steps=9", "learning_rate=1.0"))
    rates = [learning_rate(recipe, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1, rel=1e-3)
    assert max(rates) == rates[9]
    assert rates[100] == pytest.approx(0, abs=1e-12)
    constant = replace(recipe, decay="constant", warmup_steps=0)
    assert {learning_rate(constant, step) for step in range(100)} == {1.0}


def test_training_lowers_the_energy_score_of_a_fixed_batch():
    recipe = tiny("steps=60", "learning_rate=3e-3", "decay=constant")
    state, steps = started(recipe)
    spec = recipe.model_spec(1.0, {})
    x_0, key = load_data("mixture2d").sample(Noise.of(9, 2048)), Noise.of(10, 2048)
    t = torch.full((2048,), 0.2)
    x_t = spec.schedule.marginal(x_0, t, key.fold(0).normal(2))

    def score():
        posterior = spec.build_posterior(state.network)
        return EnergyScore()(posterior, x_0, x_t, t, key).mean().item()

    before = score()
    list(steps)
    # The same keys on both sides: their difference is known to about 0.002.
    assert score() < before - 0.01


def test_two_runs_of_a_seed_are_equal_and_two_seeds_are_not():
    results = []
    for seed in (0, 0, 1):
        state, steps = started(tiny(f"seed={seed}"))
        list(steps)
        results.append(weights(state))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    assert any(not torch.equal(results[0][name], results[2][name]) for name in results[0])


@pytest.mark.parametrize("learned_weights", ["false", "true"])
@pytest.mark.parametrize("interrupted_at", [0, 3])
def test_a_resumed_state_goes_on_bit_for_bit(tmp_path, interrupted_at, learned_weights):
    recipe = tiny(f"learned_weights={learned_weights}")
    whole, steps = started(recipe)
    losses = [step.loss for step in steps]
    first, steps = started(recipe)
    for _ in range(interrupted_at):
        next(steps)
    save_state(tmp_path / "state.safetensors", first, recipe, 12.5)
    second, steps = started(recipe)
    assert load_state(tmp_path / "state.safetensors", second, recipe) == 12.5
    assert [step.loss for step in steps] == losses[interrupted_at:]
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(second)[name], tensor)
    for name, average in whole.ema.items():
        assert torch.equal(second.ema[name], average)


@pytest.mark.long
def test_a_killed_process_resumes_to_the_uninterrupted_result(tmp_path):
    settings = (*TINY, "steps=40", "sample_every=1000")
    recipe, data = load_recipe("mixture2d-calibrated", settings), load_data("mixture2d")
    TrainingRun(recipe, data, tmp_path / "whole")(progress=False)
    command = [sys.executable, "-m", "stmd_training", recipe.name, "--quiet", "--threads", "1"]
    command += ["--out", str(tmp_path / "killed"), *(f"--set={setting}" for setting in settings)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / "state.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    TrainingRun(recipe, data, tmp_path / "killed")(progress=False)
    whole, killed = (load_file(tmp_path / run / "model.safetensors") for run in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    logs = [
        [
            {key: value for key, value in json.loads(line).items() if key != "seconds"}
            for line in (tmp_path / run / "log.jsonl").read_text().splitlines()
        ]
        for run in ("whole", "killed")
    ]
    assert logs[0] == logs[1]


def test_a_run_writes_a_model_with_its_facts_a_log_and_pictures(tmp_path):
    recipe = tiny("sample_every=8")
    figures = []

    def monitor(sampler):
        figures.append(sampler.sample(4, inference_steps=1, seed=0))
        return {"figure": 1.5}

    path = TrainingRun(recipe, load_data("mixture2d"), tmp_path, monitors=(monitor,))(progress=False)
    spec, network = load_model(path)
    assert spec.training["steps"] == 8
    assert spec.training["data"] == "mixture2d"
    assert spec.network == MLPConfig(width=16, depth=1)
    assert spec.sigma_data == pytest.approx(load_data("mixture2d").root_mean_square())
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [*range(1, 9), 8]
    assert lines[-1]["figure"] == 1.5
    assert (tmp_path / "samples" / "0000008.png").exists()
    # The monitor saw the model that was saved.
    state = load_file(tmp_path / "state.safetensors")
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, state[f"ema.{name}"])


def test_a_folder_of_another_recipe_is_refused_and_restart_begins_anew(tmp_path):
    data = load_data("mixture2d")
    TrainingRun(tiny("learning_rate=0.25"), data, tmp_path)(progress=False)
    before = (tmp_path / "model.safetensors").read_bytes()
    other = tiny("learning_rate=0.5")
    with pytest.raises(TrainingError, match=r"learning_rate: 0.25 there, 0.5 here"):
        TrainingRun(other, data, tmp_path)(progress=False)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    TrainingRun(other, data, tmp_path)(restart=True, progress=False)
    after = (tmp_path / "model.safetensors").read_bytes()
    assert after != before
    (tmp_path / "state.safetensors").unlink()
    with pytest.raises(TrainingError, match="holds a model and no state"):
        TrainingRun(other, data, tmp_path)(progress=False)
    assert (tmp_path / "model.safetensors").read_bytes() == after


def test_what_does_not_decide_what_is_learned_may_change_when_a_run_goes_on(tmp_path):
    recipe = tiny()
    first, steps = started(recipe)
    next(steps)
    save_state(tmp_path / "state.safetensors", first, recipe, 1.0)
    changed = tiny("microbatches=4", "log_every=7", "sample_every=9", "checkpoint_every=11")
    second, _ = started(changed)
    load_state(tmp_path / "state.safetensors", second, changed)
    assert second.step == 1


def test_damaged_states_and_unfit_data_are_refused(tmp_path):
    data = load_data("mixture2d")
    run = TrainingRun(tiny(), data, tmp_path)
    run(progress=False)
    whole = run.state_path.read_bytes()
    run.state_path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        run(progress=False)
    run.state_path.write_bytes((tmp_path / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="not a training state"):
        run(progress=False)
    with pytest.raises(DataError, match=r"\[1, 8, 8\]"):
        TrainingRun(tiny(), load_data("digits"), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        TrainingRun(tiny(), data, tmp_path / "file" / "run")


def test_a_loss_that_is_not_finite_stops_before_the_weights_change():
    recipe = tiny()
    state, _ = started(recipe)
    before = weights(state)

    def broken(network, x_0, noise):
        return network(torch.cat([x_0, x_0], dim=1), torch.zeros(len(x_0), 3)).sum(1) * float("nan")

    steps = train(state, broken, batches_of(load_data("mixture2d"), 32, 0), recipe)
    with pytest.raises(TrainingError, match=r"step 1: the loss is nan.*--restart"):
        next(steps)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(state).items())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["no-such-recipe"], "no recipe"),
        (["digits", "--data", "nowhere"], "nowhere"),
        (["digits", "--data", "mixture2d"], "mixture2d"),
        (["digits", "--set", "network=mlp"], "vectors"),
        (["digits", "--device", "cuda:99"], "CUDA"),
    ],
)
def test_the_command_line_answers_bad_input_with_exit_code_2(tmp_path, monkeypatch, capsys, arguments, complaint):
    from stmd_training import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["stmd-train", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
