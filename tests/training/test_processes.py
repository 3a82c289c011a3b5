"""Laws of data parallelism: how many processes there are changes the rounding alone; a lost one stops the others."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from stmd_sdk.data.load import load_data
from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.errors import InvalidArgumentError
from stmd_training.batches import batches_of
from stmd_training.identity import identity
from stmd_training.processes import ALONE, Processes, joined_processes
from stmd_training.recipe import load_recipe
from stmd_training.run import TrainingRun
from stmd_training.state import load_state
from stmd_training.steps import TrainState
from stmd_training.trainer import train

TINY = ("network={kind='mlp', width=16, depth=1}", "batch_size=32", "log_every=1", "sample_every=100000")
COMMAND = "from stmd_training.cli import main; main()"


def launched(folder, *settings):
    """Two processes of one run, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    arguments = ["mixture2d-calibrated", "--quiet", "--threads", "1", "--device", "cpu", "--out", str(folder)]
    arguments += [f"--set={setting}" for setting in (*TINY, *settings)]
    return [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", COMMAND, *arguments],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


@pytest.mark.parametrize(("count", "microbatches"), [(4, 1), (1, 4), (2, 2)])
def test_the_shares_of_all_processes_are_the_batch_with_as_many_moving_rows_each(count, microbatches):
    noise = Noise.of(0, 64)
    shares = [noise[rows] for rank in range(count) for rows in Processes(rank, count).shares(microbatches)]
    assert sorted(torch.cat([share.indices for share in shares]).tolist()) == list(range(64))
    for share in shares:
        assert (share.indices[: 48 // 4] < 48).all()
        assert (share.indices[48 // 4 :] >= 48).all()


def test_a_batch_that_cannot_be_shared_out_evenly_is_refused():
    with pytest.raises(InvalidArgumentError, match="among 3 processes"):
        Processes(0, 3).check_batch(64, 48, 1)
    with pytest.raises(InvalidArgumentError, match="16 rows have r < tau"):
        Processes(0, 32).check_batch(64, 16, 1)
    with pytest.raises(InvalidArgumentError, match="with 3 micro-batches each"):
        Processes(0, 2).check_batch(64, 48, 3)


def first_moments(folder):
    """After one step AdamW's first moment is a tenth of the gradient, once clipped."""
    moments = {k: v for k, v in load_file(folder / "state.safetensors").items() if k.startswith("exp_avg.")}
    assert len(moments) > 5
    return moments


def assert_same_gradients(folder, other):
    expected = first_moments(other)
    for name, moment in first_moments(folder).items():
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(moment, expected[name], rtol=1e-5, atol=1e-5 * scale)


def test_micro_batches_take_the_step_of_the_whole_batch(tmp_path):
    data = load_data("mixture2d")
    for n in (1, 8):
        recipe = load_recipe("mixture2d-calibrated", (*TINY, "steps=1", f"microbatches={n}"))
        TrainingRun(recipe, data, tmp_path / str(n))(progress=False)
    assert_same_gradients(tmp_path / "8", tmp_path / "1")


def test_two_processes_take_the_step_of_one_with_the_whole_batch(tmp_path):
    processes = launched(tmp_path / "two", "steps=1")
    recipe = load_recipe("mixture2d-calibrated", (*TINY, "steps=1"))
    TrainingRun(recipe, load_data("mixture2d"), tmp_path / "one")(progress=False)
    for process in processes:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
    assert_same_gradients(tmp_path / "two", tmp_path / "one")
    assert len((tmp_path / "two" / "log.jsonl").read_text().splitlines()) == 1


@pytest.mark.slow
def test_a_lost_process_stops_the_other_and_one_alone_goes_on(tmp_path):
    settings = ("steps=100000", "checkpoint_every=5")
    main, other = launched(tmp_path / "run", *settings)
    state_path = tmp_path / "run" / "state.safetensors"
    deadline = time.monotonic() + 120
    while not state_path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    other.send_signal(signal.SIGKILL)
    _, stderr = main.communicate(timeout=120)
    other.communicate()
    assert main.returncode == 2, stderr
    assert "another process of the run is gone" in stderr
    assert "the last checkpoint is intact" in stderr
    recipe, data = load_recipe("mixture2d-calibrated", (*TINY, *settings)), load_data("mixture2d")
    spec = recipe.model_spec(data.root_mean_square(), {})
    state = TrainState.fresh(spec, recipe, torch.device("cpu"))
    load_state(state_path, state, recipe, identity(data, None))
    reached = state.step
    assert reached > 0
    assert reached % 5 == 0
    step = next(train(state, recipe.loss(spec, state.loss_weights), batches_of(data, 32, recipe.seed), recipe))
    assert step.step == reached + 1


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "-1", "RANK": "0"}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "2", "RANK": "x"}, "RANK"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "x"}, "LOCAL_RANK"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR and MASTER_PORT"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost"}, "MASTER_PORT"),
    ],
)
def test_an_environment_that_no_launcher_made_is_one_line(monkeypatch, environment, says):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidArgumentError, match=says), joined_processes("cpu"):
        pass


@pytest.mark.parametrize("environment", [{"WORLD_SIZE": ""}, {"WORLD_SIZE": "4"}, {"WORLD_SIZE": "1", "RANK": "0"}, {}])
def test_one_process_is_alone_whatever_a_cluster_says_of_itself(monkeypatch, environment):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with joined_processes("cpu") as (processes, device):
        assert (processes, device) == (ALONE, "cpu")
