"""The paper's tables, and the smoke runs: each recipe's own code path at a size of seconds."""

import os
import sys

import pytest

from stmd_sdk.data.latents import cache_latents
from stmd_sdk.errors import CheckpointError, DataError, InvalidArgumentError
from stmd_sdk.models.checkpoint import load_model
from stmd_sdk.networks import PRESETS
from stmd_training.recipe import load_recipe
from stmd_training.run import TrainingRun
from stmd_training.smoke import smoke_test


def test_recipes_are_the_papers_tables():
    table = {"mnist": (5e-4, 150_000, "unet-mnist"), "cifar10": (1e-4, 450_000, "unet-cifar10")}
    for name, (rate, steps, network) in table.items():
        for suffix in ("", "-meanflow", "-ddpm", "-calibrated"):
            recipe = load_recipe(name + suffix)
            assert (recipe.learning_rate, recipe.steps, recipe.network) == (rate, steps, network)
            assert (recipe.batch_size, recipe.ema) == (64, 0.9995)
    celeba = load_recipe("celeba")
    assert (celeba.batch_size, celeba.ema, celeba.network) == (64, 0.9995, "dit-m2")
    assert celeba.codec.vae.startswith("stabilityai/sd-vae-ft-ema@")
    assert celeba.codec.decoded_shape(celeba.shape) == (3, 256, 256)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of diffusers, as it saves the tiny VAE
@pytest.mark.parametrize(
    "name", ["celeba-calibrated", "cifar10-meanflow", "cifar10-compact-calibrated", "mnist-compact"]
)
def test_a_smoke_run_goes_the_whole_way(tmp_path, monkeypatch, name):
    from stmd_training import cli

    command = ["stmd-train", name, "--smoke", "--quiet", "--device", "cpu", "--out", str(tmp_path)]
    classes = ["--set", "classes=3", "--set", "unlabelled_share=0.1"] if name.startswith("celeba") else []
    monkeypatch.setattr(sys, "argv", [*command, *classes])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0
    out = tmp_path / f"{name}-smoke"  # what is in --out itself stays as it is
    spec, _ = load_model(out / "model.safetensors")
    whole = load_recipe(name)
    kind = PRESETS[whole.network].kind
    assert (spec.objective, spec.network.kind) == (whole.objective, kind)
    assert spec.training["steps"] == 4
    assert len((out / "log.jsonl").read_text().splitlines()) == 4
    assert (out / "samples" / "0000004.png").exists()
    if name.startswith("celeba"):
        assert len(spec.codec.sha256) == 64
        assert spec.classes.names == ("0000", "0001", "0002")  # the folders of the synthetic pictures


def test_latents_of_another_vae_and_an_absent_vae_are_refused_before_training(tmp_path):
    recipe, data = smoke_test(load_recipe("celeba"), tmp_path)
    TrainingRun(recipe, data, tmp_path / "run")
    with pytest.raises(DataError, match="the recipe is for LatentCodec"):
        TrainingRun(load_recipe("celeba", ("shape=[4, 8, 8]",)), data, tmp_path / "run")
    weights = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    from stmd_sdk.codecs.vae import load_vae

    load_vae.cache_clear()
    with pytest.raises(CheckpointError, match="no VAE at"):
        TrainingRun(recipe, data, tmp_path / "run")
    with pytest.raises(CheckpointError, match="no VAE at"):
        cache_latents(str(tmp_path / "pictures"), tmp_path / "more", recipe.codec, 64)
    assert not (tmp_path / "more").exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "setting",
    [
        "energy_score.weight=-1",
        "energy_score.weight=nan",
        "energy_score.exponent=2",
        "energy_score.draws=1",
        "warmup_steps=-1",
        "seed=-1",
        "learning_rate=inf",
        "flow.power=-1",
        "flow.offset=0",
    ],
)
def test_values_that_no_run_can_have_are_refused(setting):
    with pytest.raises(InvalidArgumentError, match=setting.split("=")[0].split(".")[-1]):
        load_recipe("mixture2d-calibrated", (setting,))


def test_what_is_the_stmd_objectives_alone_is_refused_elsewhere():
    with pytest.raises(InvalidArgumentError, match="only objective 'stmd'"):
        load_recipe("mnist-ddpm", ("t_power=2",))


@pytest.mark.parametrize(
    ("name", "where"), [("mnist", "yann.lecun.com"), ("cifar10", "kriz"), ("celeba", "CelebA.html")]
)
def test_missing_data_say_where_they_come_from(tmp_path, monkeypatch, capsys, name, where):
    from stmd_training import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["stmd-train", name])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert where in error
    assert "--data" in error
    assert list(tmp_path.iterdir()) == []


def test_a_base_lies_beside_the_file_that_names_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "parent.toml").write_text('base = "mixture2d"\nsteps = 7\n')
    (tmp_path / "sub" / "child.toml").write_text('base = "parent.toml"\nbatch_size = 32\n')
    recipe = load_recipe("sub/child.toml")
    assert (recipe.name, recipe.steps, recipe.batch_size) == ("child", 7, 32)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_recipe("~/sub/child.toml") == recipe


def test_a_recipe_is_utf8_with_or_without_a_byte_order_mark(tmp_path):
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "a.toml").write_text('base = "mixture2d"\nname = "größe"\n', encoding=encoding)
        assert load_recipe(str(tmp_path / "a.toml")).name == "größe"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('base = "a.toml"', "is its own base"),
        ('base = "b.toml"', "is its own base, through a.toml and b.toml"),
        ('base = "absent.toml"', r"no recipe 'absent.toml': neither the TOML file \S*absent.toml nor one of"),
        ("base = 3", "base: expected the name"),
        ("steps = ", "not TOML"),
        ("a = " + "[" * 10**5, "nested too deeply"),
        ("steps = " + "9" * 5000, "not TOML"),
        ('base = "mixture2d"\nlearning_rate = ' + "9" * 400, "learning_rate"),
        ("x" * 70_000, "not TOML"),
    ],
)
def test_a_recipe_that_cannot_be_read_is_one_line(tmp_path, monkeypatch, text, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.toml").write_text(text)
    (tmp_path / "b.toml").write_text('base = "../' + tmp_path.name + '/a.toml"')
    for name in ("a.toml", str(tmp_path / "a.toml")):
        with pytest.raises(InvalidArgumentError, match=says) as caught:
            load_recipe(name)
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["pipe", "/dev/zero", ".", "a" * 5000])
def test_what_is_no_recipe_file_is_one_line(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidArgumentError):
        load_recipe(str(tmp_path / name))


@pytest.mark.parametrize(
    "setting", ["steps=" + "9" * 5000, "steps=" + "[" * 10**5, "learning_rate=" + "9" * 400, "name", "=1", "name.x=1"]
)
def test_a_setting_that_cannot_be_read_is_one_line(setting):
    with pytest.raises(InvalidArgumentError) as caught:
        load_recipe("mixture2d", (setting,))
    assert len(str(caught.value)) < 1000


def test_a_setting_is_one_key(tmp_path):
    with pytest.raises(InvalidArgumentError, match="steps"):
        load_recipe("mixture2d", ("steps=1\nbatch_size=2",))
