"""Laws of going on: the same data, a run of one's own, whatever a killed process or a damaged disk left behind."""

import json
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stmd_sdk import Sampler
from stmd_sdk.codecs.codec import VectorCodec
from stmd_sdk.data.load import load_data
from stmd_sdk.errors import CheckpointError, DataError, OutputError, TrainingError
from stmd_sdk.models.checkpoint import load_model, read_spec, save_model
from stmd_sdk.models.tensors import read_tensors, write_tensors
from stmd_training import cli, fitting, run, state
from stmd_training.recipe import load_recipe
from stmd_training.run import TrainingRun
from stmd_training.tilt import load_base

TINY = ("network={kind='mlp', width=16, depth=1}", "batch_size=32", "checkpoint_every=4", "log_every=1")


def tiny(*settings, name="mixture2d-calibrated"):
    return load_recipe(name, (*TINY, "steps=8", "sample_every=100", *settings))


def vectors(path, seed=0, mean=(1000.0, -3.0), deviation=(1.0, 300.0), n=400):
    rows = np.random.default_rng(seed).normal(size=(n, 2)) * deviation + mean
    np.savez(path, x=rows.astype(np.float32))
    return load_data(path)


def trained(data, folder, *settings, **options):
    said = []
    path = TrainingRun(tiny(*settings), data, folder, **options)(progress=False, say=said.append)
    return path, said


def test_a_run_says_what_it_trains_on_and_refuses_to_go_on_with_other_data(tmp_path):
    first, other = vectors(tmp_path / "a.npz"), vectors(tmp_path / "b.npz", seed=1)
    path, said = trained(first, tmp_path / "run")
    assert said[0].startswith("400 samples [2] from a.npz, standardised by column")
    before = path.read_bytes()
    with pytest.raises(TrainingError, match=r"a run on other data .*\"count\": 400"):
        trained(other, tmp_path / "run")
    assert path.read_bytes() == before
    copied = vectors(tmp_path / "moved.npz")
    assert trained(copied, tmp_path / "run")[0].read_bytes() == before
    assert TrainingRun(tiny(), other, tmp_path / "run")(restart=True, progress=False).read_bytes() != before
    assert trained(load_data("mixture2d"), tmp_path / "law")[1] == ["draws [2] of mixture2d"]


def test_a_run_that_a_cpu_can_only_emulate_says_what_is_faster(tmp_path, monkeypatch):
    law = load_data("mixture2d")
    for capability, told in (("AVX2", 1), ("AVX512", 0)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda name=capability: name)
        _, said = trained(law, tmp_path / capability, "steps=1", "precision=bfloat16")
        assert sum("--set precision=float32" in line for line in said) == told
        assert not any("--set" in line for line in trained(law, tmp_path / f"{capability}-32", "steps=1")[1])


def test_states_from_before_data_were_remembered_go_on(tmp_path):
    data = vectors(tmp_path / "a.npz")
    half, _ = trained(data, tmp_path / "run", "steps=4")
    path = tmp_path / "run" / "state.safetensors"
    tensors, metadata = read_tensors(path)
    del metadata["data"]
    recipe = json.loads(metadata["recipe"]) | {"steps": 8}
    write_tensors(path, tensors, metadata | {"recipe": json.dumps(recipe)})
    half.unlink()
    trained(data, tmp_path / "run")
    assert read_spec(half).codec == VectorCodec()  # as its first half was trained
    assert read_spec(half).training["steps"] == 8


@pytest.mark.parametrize("changed", ["weight=0.5", "exponent=0.7", "draws=3"])
def test_a_run_does_not_go_on_with_another_score(tmp_path, changed):
    data = vectors(tmp_path / "a.npz")
    trained(data, tmp_path / "run", "steps=4")
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.safetensors")}
    key, value = changed.split("=")
    with pytest.raises(TrainingError, match=rf"another recipe \(energy_score\.{key}: \S+ there, {value} here\)\. Give"):
        trained(data, tmp_path / "run", f"energy_score.{changed}")
    assert all(path.read_bytes() == content for path, content in before.items())


def test_states_from_before_there_were_shares_of_fine_scales_go_on(tmp_path):
    data = vectors(tmp_path / "a.npz")
    path, _ = trained(data, tmp_path / "run", "steps=4")
    tensors, metadata = read_tensors(tmp_path / "run" / "state.safetensors")
    recipe = json.loads(metadata["recipe"])
    recipe["energy_score"] = {key: recipe["energy_score"][key] for key in ("weight", "exponent", "draws")}
    write_tensors(tmp_path / "run" / "state.safetensors", tensors, metadata | {"recipe": json.dumps(recipe)})
    trained(data, tmp_path / "run")
    assert read_spec(path).training["steps"] == 8


def test_a_fit_does_not_replace_a_trained_model(tmp_path):
    data = vectors(tmp_path / "a.npz")
    path, _ = trained(data, tmp_path / "run", "steps=4")
    before, recipe = path.read_bytes(), load_recipe("local-gaussians", ("shape=[2]", "clusters=2"))
    with pytest.raises(TrainingError, match="holds a run with a network"):
        TrainingRun(recipe, data, tmp_path / "run")(progress=False)
    assert path.read_bytes() == before
    assert TrainingRun(recipe, data, tmp_path / "run")(progress=False, restart=True) == path
    assert read_spec(path).training["steps"] == 0
    with pytest.raises(TrainingError, match="holds a model and no state"):
        TrainingRun(recipe, data, tmp_path / "run")(progress=False)
    with pytest.raises(TrainingError, match="has no network"):
        TrainingRun(recipe, data, tmp_path / "next", base=load_base(str(path)))


def test_samples_of_standardised_vectors_are_on_the_scale_of_the_data(tmp_path):
    data = vectors(tmp_path / "a.npz", n=4000)
    settings = ("steps=120", "learning_rate=4e-3", "checkpoint_every=120", "sample_every=120", "ema=0.9")
    path, _ = trained(data, tmp_path / "run", *settings, "network={kind='mlp', width=32, depth=2}")
    spec = read_spec(path)
    torch.testing.assert_close(torch.tensor(spec.codec.mean), data.array.mean(0), rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(torch.tensor(spec.codec.scale), data.array.std(0, correction=0), rtol=1e-4, atol=1e-4)
    assert spec.sigma_data == pytest.approx(1, rel=1e-4)
    x = Sampler.from_pretrained(path).sample(4000, inference_steps=4, seed=0)
    error = (x.mean(0) - data.array.mean(0)) / data.array.std(0)
    assert error.abs().max() < 0.2
    assert ((x.std(0) / data.array.std(0)).log().abs() < 0.25).all()


def test_vectors_that_are_all_equal_are_named(tmp_path):
    data = vectors(tmp_path / "equal.npz", deviation=(0.0, 0.0))
    with pytest.raises(DataError, match=r"equal\.npz: all of its 400 samples are equal"):
        trained(data, tmp_path / "run")
    constant = vectors(tmp_path / "column.npz", deviation=(0.0, 1.0))
    path, _ = trained(constant, tmp_path / "run")
    assert read_spec(path).codec.scale[0] == 1.0


def test_a_finished_run_is_trained_further(tmp_path):
    data = vectors(tmp_path / "a.npz")
    path, _ = trained(data, tmp_path / "run", "decay=constant")
    assert read_spec(path).training["steps"] == 8
    _, said = trained(data, tmp_path / "run", "decay=constant", "steps=12")
    assert "8 steps done of a run that was given 8: it goes on to 12" in said[1]
    whole, _ = trained(data, tmp_path / "whole", "decay=constant", "steps=12")
    a, b = load_file(path), load_file(whole)
    assert all(torch.equal(a[name], b[name]) for name in b)
    with pytest.raises(TrainingError, match="12 steps already: 8 are fewer"):
        trained(data, tmp_path / "run", "decay=constant")


def test_a_run_starts_from_ones_own_weights(tmp_path):
    data, other = vectors(tmp_path / "a.npz"), vectors(tmp_path / "b.npz", seed=1, mean=(990.0, 0.0))
    path, _ = trained(data, tmp_path / "run")
    base = load_base(str(path))
    next_path, _ = trained(other, tmp_path / "next", "steps=1", "learning_rate=1e-12", base=base)
    spec, network = load_model(next_path)
    assert spec.codec == base.spec.codec  # whose scale the weights are for
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, base.weights[name])
    with pytest.raises(TrainingError, match="other data"):
        trained(other, tmp_path / "next", "steps=1", "learning_rate=1e-12")


def test_the_command_starts_from_a_model_and_refuses_a_recipe_of_another(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path, _ = trained(load_data("mixture2d"), tmp_path / "run")
    settings = [f"--set={setting}" for setting in (*TINY, "steps=2", "sample_every=100")]
    command = ["stmd-train", "mixture2d-calibrated", "--quiet", "--out", "next", *settings]
    monkeypatch.setattr(sys, "argv", [*command, "--init", str(path)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0
    assert capsys.readouterr().out.lstrip().startswith("draws [2] of mixture2d\n")
    monkeypatch.setattr(sys, "argv", [*command, "--init", "mixture2d"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "(network" in capsys.readouterr().err


@pytest.mark.parametrize("lost", ["model", "both", "first model"])
def test_a_run_goes_on_whatever_of_its_two_files_there_is(tmp_path, lost, monkeypatch):
    """Killed between its state and its model, which are written in that order."""
    data = load_data("mixture2d")
    whole, _ = trained(data, tmp_path / "whole")
    saved = run.save_model
    calls = []

    def dying(path, spec, tensors):
        calls.append(path)
        if len(calls) == (1 if lost == "first model" else 2):
            raise KeyboardInterrupt
        saved(path, spec, tensors)

    with monkeypatch.context() as patch:
        patch.setattr(run, "save_model", dying)
        with pytest.raises(KeyboardInterrupt):
            trained(data, tmp_path / "run")
    if lost == "both":
        (tmp_path / "run" / "state.safetensors").unlink()
        (tmp_path / "run" / "model.safetensors").unlink()
    path, _ = trained(data, tmp_path / "run")
    a, b = load_file(path), load_file(whole)
    assert all(torch.equal(a[name], b[name]) for name in b)
    assert read_spec(path).training["steps"] == 8


def test_a_run_goes_on_with_the_gaussians_that_it_began_with(tmp_path, monkeypatch):
    """Whatever this version of the project would fit: the state's weights know the old ones."""
    data, recipe = load_data("mixture2d"), tiny("clusters=2", "steps=4", name="mixture2d-local")
    half = TrainingRun(recipe, data, tmp_path)(progress=False)
    began = read_spec(half).local_gaussians
    monkeypatch.setattr(fitting, "fit_local_gaussians", None)
    path = TrainingRun(replace(recipe, steps=8), data, tmp_path)(progress=False)
    assert read_spec(path).training["steps"] == 8
    assert read_spec(path).local_gaussians == began


def test_damaged_lines_of_a_log_are_dropped(tmp_path):
    data = load_data("mixture2d")
    trained(data, tmp_path / "run", "steps=4")
    log = tmp_path / "run" / "log.jsonl"
    lines = log.read_text().splitlines()
    garbled = [
        '{"step": 3, "lo{"step": 4, "loss": 1.0}',
        "[1]}",
        '{"loss": 1.0}',
        '{"step": "2"}',
        '{"step": 9}',
        '{"st',
    ]
    log.write_bytes("\n".join([*lines[:2], *garbled[:5], *lines[2:], garbled[5]]).encode() + b"\xff")
    trained(data, tmp_path / "run", "steps=8")
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == list(range(1, 9))


def corrupted(change):
    def rewrite(path):
        tensors, metadata = read_tensors(path)
        change(tensors, metadata)
        write_tensors(path, tensors, metadata)

    return rewrite


def _first(tensors, kind):
    return next(name for name in tensors if name.startswith(kind))


DAMAGE = {
    "a step before the first": lambda t, m: m.update(step="-1"),
    "a step that is none": lambda t, m: m.update(step="many"),
    "seconds that are none": lambda t, m: m.update(seconds="nan"),
    "no recipe": lambda t, m: m.update(recipe="[" * 100_000),
    "a moment that is missing": lambda t, m: t.pop(_first(t, "exp_avg.")),
    "weights that would be broadcast": lambda t, m: t.update({_first(t, "weight."): torch.zeros(1)}),
    "moments of another type": lambda t, m: t.update({(k := _first(t, "exp_avg.")): t[k].double()}),
    "a negative second moment": lambda t, m: t.update({(k := _first(t, "exp_avg_sq.")): -1 - t[k]}),
    "weights that are no numbers": lambda t, m: t.update({(k := _first(t, "weight.")): t[k] * torch.nan}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_is_refused_before_it_is_used(tmp_path, damage):
    data = load_data("mixture2d")
    trained(data, tmp_path / "run", "steps=4")
    path = tmp_path / "run" / "state.safetensors"
    corrupted(DAMAGE[damage])(path)
    with pytest.raises(CheckpointError, match=r"state\.safetensors: a damaged training state"):
        trained(data, tmp_path / "run")


def test_weights_that_are_not_finite_never_replace_the_last_good_state(tmp_path, monkeypatch):
    data, saved = load_data("mixture2d"), state.save_state
    path = tmp_path / "run" / "state.safetensors"

    def breaking(where, training, recipe, seconds, identity):
        if training.step == 8:
            next(iter(training.parameters.values())).data.fill_(torch.nan)
        saved(where, training, recipe, seconds, identity)

    monkeypatch.setattr(run, "save_state", breaking)
    with pytest.raises(TrainingError, match=r"step 8: .* not finite; the last checkpoint is intact"):
        trained(data, tmp_path / "run")
    assert read_tensors(path)[1]["step"] == "4"
    assert read_spec(tmp_path / "run" / "model.safetensors").training["steps"] == 4


def test_two_runs_into_one_folder_never_mix(tmp_path, monkeypatch):
    data, refused = load_data("mixture2d"), []
    saved = run.save_model

    def meanwhile(path, spec, tensors):
        try:
            trained(data, tmp_path / "run", "seed=5")
        except OutputError as error:
            refused.append(str(error))
        saved(path, spec, tensors)

    monkeypatch.setattr(run, "save_model", meanwhile)
    trained(data, tmp_path / "run")
    assert len(refused) == 2
    assert "is being written by process" in refused[0]
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]


def test_a_tensorboard_that_is_there_and_broken_is_left_out(tmp_path, monkeypatch):
    broken = type(sys)("torch.utils.tensorboard")

    def gone(name):
        raise TypeError("Descriptors cannot be created directly")

    broken.__getattr__ = gone
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", broken)
    with pytest.warns(RuntimeWarning, match="TensorBoard does not work and is left out: Descriptors"):
        trained(load_data("mixture2d"), tmp_path / "run")


def test_a_model_is_saved_by_one_thread_at_a_time(tmp_path):
    """Whoever comes second waits a little, and then says so: nobody writes into another's file."""
    path, _ = trained(load_data("mixture2d"), tmp_path / "run")
    spec, network = load_model(path)
    kinds = [{name: torch.full_like(t, value) for name, t in network.state_dict().items()} for value in (1.0, 2.0)]
    threads = [
        threading.Thread(target=lambda kind=kind: [save_model(path, spec, kind) for _ in range(20)]) for kind in kinds
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    values = {float(t.mean()) for t in load_model(path)[1].state_dict().values()}
    assert values in ({1.0}, {2.0})
