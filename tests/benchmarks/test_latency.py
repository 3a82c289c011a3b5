"""The latency benchmark: its arithmetic, its table, its grid, and one small run of the command."""

import json
import sys
from pathlib import Path

import contenders
import latency
import measuring
import pytest
import torch

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def test_the_floor_is_the_largest_of_arithmetic_traffic_and_launches():
    machine = measuring.Machine(CPU, flops=100.0, bandwidth=10.0, launch=2.0)
    assert machine.floor(400, 10, 1) == 4
    assert machine.floor(100, 50, 1) == 5
    assert machine.floor(100, 10, 3) == 6


def test_a_linear_layer_costs_two_flops_a_weight_and_its_bytes():
    layer = torch.nn.Linear(6, 5, bias=False)
    product = layer.forward
    layer.forward = lambda x, times: product(x)
    assert measuring.evaluation_cost(layer, torch.zeros(7, 6), torch.zeros(7, 3)) == (
        2 * 7 * 6 * 5,
        4 * (6 * 5 + 7 * 6 + 7 * 3 + 7 * 5),
    )


def test_calls_take_turns_after_one_of_each_that_is_not_counted():
    order = []
    calls = [lambda: order.append("a"), lambda: order.append("b")]
    first, taken = measuring.interleaved(calls, CPU, 4)
    assert order == ["a", "b"] * 5
    assert (len(first), [len(times) for times in taken]) == (2, [4, 4])
    _, taken = measuring.interleaved(calls, CPU, 9, budget=0)
    assert [len(times) for times in taken] == [3, 3]


def test_a_summary_is_quantiles_and_the_spread_of_the_quartiles():
    found = measuring.summary(range(101))
    assert found == {"median": 50, "p95": 95, "p99": 99, "spread": 1}


def test_memory_is_that_of_the_peak():
    taken = measuring.peak_memory(lambda: torch.ones(2**23).sum(), CPU)
    if taken is None:
        pytest.skip("this system does not tell")
    assert taken == pytest.approx(2**25, rel=0.2)


def test_overhead_compares_within_a_round():
    each = contenders.Contender("a", lambda: None, 4, bare="bare")
    # The clock slows down tenfold; the overhead stays one tenth.
    assert latency.overhead({"a": [1.1, 11.0, 5.5], "bare": [1.0, 10.0, 5.0]}, each) == pytest.approx(0.1)
    assert latency.overhead({"a": [1.0]}, contenders.Contender("a", lambda: None, 4)) is None


def test_the_grid_is_what_was_asked_for():
    quick = latency.grid(latency.parsed(["--quick", "--device", "cpu"]))
    assert [(cell.model, cell.batch, cell.evaluations) for cell in quick] == [("mnist", 1, 4), ("mnist", 16, 4)]
    asked = latency.grid(latency.parsed(["--models", "digits", "--batches", "3", "--steps", "1", "2"]))
    assert [(cell.model, cell.batch, cell.inference_steps) for cell in asked] == [("digits", 3, 1), ("digits", 3, 2)]
    full = latency.grid(latency.parsed(["--full", "--models", "mnist"]))
    assert len(full) == 3 * 5 * 4 * 2


def test_what_is_left_out_is_said_once_with_its_reason(tmp_path, capsys):
    contenders.leave_out.cache_clear()
    path, wanted = contenders.checkpoint("mixture2d", tmp_path), ["captured", "onnx", "whole", "ddim", "dpm++", "ddpm"]
    for batch in (1, 2):
        setting = contenders.Setting("mixture2d", "bfloat16", batch, 4, 1)
        assert list(contenders.contenders(path, tmp_path, setting, wanted, CPU, usual=True)) == []
    said = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[:2] for line in said] == [["left out", name] for name in wanted]
    for line, reason in zip(said, ["CPU", *["float32"] * 2, *["U-Net"] * 3], strict=True):
        assert reason in line


def test_a_run_with_nothing_left_says_so(tmp_path, monkeypatch):
    arguments = f"--models mixture2d --backends captured --device cpu --out {tmp_path / 'x.json'}"
    monkeypatch.setattr(sys, "argv", ["latency.py", *arguments.split()])
    with pytest.raises(SystemExit, match="nothing was measured"):
        latency.main()
    assert not list(tmp_path.iterdir())


def test_a_thousand_samples_cost_the_processor_time_of_all_threads():
    rounds = [(0.5, 0.8), (0.4, 0.6), (9.0, 0.7)]  # wall and processor seconds of a batch of 4
    assert latency.core_seconds(rounds, 4, measuring.Machine(CPU, 1, 1, 0)) == pytest.approx(175)
    assert latency.core_seconds(rounds, 4, measuring.Machine(torch.device("cuda"), 1, 1, 0)) is None


def test_the_published_table_takes_the_place_of_the_last_one(tmp_path):
    stored, readme = json.loads((ROOT / "docs" / "latency-cpu.json").read_text()), tmp_path / "README.md"
    readme.write_text((ROOT / "README.md").read_text())
    latency.publish(stored["rows"], readme)
    assert readme.read_text() == (ROOT / "README.md").read_text()
    latency.publish(stored["rows"][:1], readme)
    assert latency.markdown(stored["rows"][:1]) in readme.read_text()
    assert readme.read_text().count("| contender |") == (ROOT / "README.md").read_text().count("| contender |")


def test_options_after_publish_change_its_run():
    options = latency.parsed(["--publish", "--rounds", "3", "--out", "x.json"])
    assert (options.rounds, options.threads, str(options.out)) == (3, 1, "x.json")
    assert {"openvino", "ddim-openvino"} <= set(options.backends)


def test_a_small_run_writes_what_it_prints(tmp_path, monkeypatch, capsys):
    arguments = "--models digits --batches 2 --steps 1 --rounds 3 --threads 1 --device cpu --backends eager loop ddim"
    outputs = ["--out", str(tmp_path / "x.json"), "--plot", str(tmp_path / "x.png")]
    monkeypatch.setattr(sys, "argv", ["latency.py", *arguments.split(), *outputs])
    latency.main()
    printed = capsys.readouterr().out
    assert printed.startswith("CPU")
    found = json.loads((tmp_path / "x.json").read_text())
    names = ["eager", "eager, bare", "plain loop", "diffusers ddim, 1 steps"]
    assert [row["contender"] for row in found["rows"]] == names
    for row in found["rows"]:
        assert row["rounds"] == 3
        assert 0 < row["seconds"]["median"] <= row["seconds"]["p95"] <= row["seconds"]["p99"]
        assert f"{row['seconds']['median'] * 1e3:.4g} ms" in printed
        assert 0 < row["of_floor"] < 1
    assert found["environment"]["threads"] == 1
    assert (tmp_path / "x.png").stat().st_size > 10_000


def test_quality_is_that_of_the_method_that_a_contender_draws():
    stored = json.loads((ROOT / "docs" / "mnist-quality.json").read_text())
    found = latency.distances(stored)
    (ours,) = latency.methods_of("diffusers dpm++, 8 steps")
    seeds = [row["quality"]["frechet"] for row in stored["rows"] if (row["method"], row["evaluations"]) == (ours, 8)]
    assert found[ours, 8] == seeds
    assert len(seeds) == 2
    assert {method for method, _ in found} - {"Mean Flow"} == {
        method
        for contender in ("eager", "diffusers ddim, 4 steps", "diffusers ddpm, 8 steps", "diffusers dpm++, 8 steps")
        for method in latency.methods_of(contender)
    }


def test_the_readme_shows_the_stored_run():
    stored = json.loads((ROOT / "docs" / "latency-cpu.json").read_text())
    assert latency.markdown(stored["rows"]) in (ROOT / "README.md").read_text()
