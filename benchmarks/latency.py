"""What a sample costs: the SDK's backends beside diffusers' pipelines and beside what the machine could do.

    python benchmarks/latency.py                       # some settings, under three minutes on two cores
    python benchmarks/latency.py --quick               # the bundled mnist at batches 1 and 16, under a minute
    python benchmarks/latency.py --full --models unet-mnist unet-cifar10 --batches 1 64
    python benchmarks/latency.py --plot latency.png --quality quality.json
    python benchmarks/latency.py --publish             # README's table, its JSON and picture: ten minutes, free core

``--quick`` leaves out batch 64, the whole sampler, DPM-Solver++, and the 20 to 1000 steps that diffusers' users take.
Runs on a GPU where there is one, else on the CPU, and says so first. A model is a bundled name or a network preset
with random weights. All contenders of one setting take turns, so that a drifting clock hits them alike, and each
round has noise of its own. With one thread on a CPU the figures are processor time, which other work on the machine
does not lengthen, else wall time; the JSON has both, and the processor seconds of a thousand samples, of all threads
together. Options after ``--publish`` change its run. A quality JSON is what ``benchmarks/quality.py`` writes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch
from contenders import BACKENDS, PEERS, PRECISIONS, Contender, Setting, checkpoint, contenders
from measuring import (
    Machine,
    environment,
    evaluation_cost,
    interleaved,
    launches,
    measured_machine,
    peak_memory,
    ratio_clock,
    summary,
)

from stmd_sdk.files import written_whole
from stmd_sdk.models.checkpoint import load_model

Row = dict[str, Any]
COLUMNS = "model batch N M contender NFE median_ms p95 p99 first_ms build_s MB us/NFE core_s/1000 overhead floor spread"
ROOT = Path(__file__).parents[1]
PUBLISHED = (
    "--models unet-mnist --device cpu --threads 1 --batches 1 16 64 --steps 4 --budget 60 --rounds 15 --backends eager "
    "onnx openvino whole whole-openvino ddim ddim-openvino ddpm --out"
)
START, END = "<!-- --8<-- [start:latency] -->\n", "<!-- --8<-- [end:latency] -->"
ONCE = 1000  # evaluations from which one call is enough: the average is in it


def grid(options: argparse.Namespace) -> list[Setting]:
    """The settings of a run. By default one step and four at batch 1, and larger batches at four."""
    if options.full:
        steps, flows = options.steps or [1, 2, 4, 8], options.mean_flow_steps or [1, 2]
        batches, precisions = options.batches or [1, 4, 16, 64, 256], options.precisions or list(PRECISIONS)
    else:
        steps, flows = options.steps or [4], options.mean_flow_steps or [1]
        batches, precisions = options.batches or ([1, 16] if options.quick else [1, 64]), options.precisions
    cells = product(options.models, precisions or ["float32"], batches, steps, flows)
    return [Setting(*cell) for cell in cells]


def timed_rows(
    found: list[Contender], setting: Setting, machine: Machine, cost: tuple[float, float], options: argparse.Namespace
) -> list[Row]:
    """Time the contenders of one setting in turns, and each long one by itself, once."""
    turns = [each for each in found if each.evaluations < ONCE]
    first, taken = interleaved([each.call for each in turns], machine.device, options.rounds, options.budget)
    results: list[tuple[Contender, float | None, list[tuple[float, float]]]] = [*zip(turns, first, taken, strict=True)]
    for each in found:
        if each.evaluations >= ONCE:
            _, times = interleaved([each.call], machine.device, 1, warm=False)
            results.append((each, None, times[0]))
    clock = ratio_clock(machine.device)
    chosen = {each.name: [times[clock] for times in rounds] for each, _, rounds in results}
    rows: list[Row] = []
    for each, first_call, rounds in results:
        flops, moved = cost
        once = each.evaluations >= ONCE
        started = launches(each.call) if machine.device.type == "cuda" and not once else 0
        floor = machine.floor(each.evaluations * flops, each.evaluations * moved, started)
        spent = summary(chosen[each.name])
        rows.append(
            asdict(setting)
            | {
                "contender": each.name,
                "evaluations": each.evaluations,
                "rounds": len(rounds),
                "seconds": spent,
                "wall_seconds": summary([wall for wall, _ in rounds]),
                "core_seconds_per_thousand": core_seconds(rounds, setting.batch, machine),
                "first_call_seconds": first_call,
                "build_seconds": each.build,
                "peak_bytes": None if once else peak_memory(each.call, machine.device),
                "launches": started,
                "overhead": overhead(chosen, each),
                "of_floor": floor / spent["median"],
            }
        )
    return rows


def core_seconds(rounds: list[tuple[float, float]], batch: int, machine: Machine) -> float | None:
    """Processor seconds of a thousand samples, of all threads together; on a GPU they say nothing."""
    return None if machine.device.type == "cuda" else summary([cpu for _, cpu in rounds])["median"] * 1000 / batch


def overhead(chosen: dict[str, list[float]], each: Contender) -> float | None:
    """The median over rounds of a call over its bare evaluations in the same round, less one."""
    if each.bare is None:
        return None
    pairs = zip(chosen[each.name], chosen[each.bare], strict=True)
    return summary([whole / bare for whole, bare in pairs])["median"] - 1


def table(rows: list[Row]) -> str:
    """The rows as text."""
    lines: list[list[str]] = [list(COLUMNS.split())]
    for row in rows:
        spent, first, memory = row["seconds"], row["first_call_seconds"], row["peak_bytes"]
        lines.append(
            [
                row["model"] + ("" if row["precision"] == "float32" else f" {row['precision']}"),
                *(str(row[key]) for key in ("batch", "inference_steps", "mean_flow_steps", "contender", "evaluations")),
                *(f"{spent[key] * 1e3:.1f}" for key in ("median", "p95", "p99")),
                "-" if first is None else f"{first * 1e3:.0f}",
                f"{row['build_seconds']:.1f}",
                "-" if memory is None else f"{memory / 1e6:.1f}",
                f"{spent['median'] / row['evaluations'] * 1e6:.0f}",
                "-" if row["core_seconds_per_thousand"] is None else f"{row['core_seconds_per_thousand']:.3g}",
                "-" if row["overhead"] is None else f"{row['overhead']:+.1%}",
                f"{row['of_floor']:.0%}",
                f"{spent['spread']:.0%}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def markdown(rows: list[Row]) -> str:
    """The README's table: median milliseconds a batch, and how often that fits into DDIM's at equal evaluations.

    On CPUs the last column is the processor time of a thousand samples in the largest batch that was measured.
    """
    batches = sorted({row["batch"] for row in rows})
    cells = {(row["contender"], row["evaluations"], row["batch"]): row["seconds"]["median"] for row in rows}
    nfe = rows[0]["evaluations"]
    equal = {batch: cells.get((f"diffusers ddim, {nfe} steps", nfe, batch)) for batch in batches}
    cost = {(row["contender"], row["evaluations"]): row.get("core_seconds_per_thousand") for row in rows}
    costs = any(cost.values())
    heads = [*(f"batch {batch}" for batch in batches), *["core-seconds a thousand"] * costs]
    lines = ["| contender | evaluations | " + " | ".join(heads) + " |", "|---" * (2 + len(heads)) + "|"]
    for contender, evaluations in dict.fromkeys((row["contender"], row["evaluations"]) for row in rows):
        texts: list[str] = []
        for batch in batches:
            spent, peer = cells.get((contender, evaluations, batch)), equal[batch]
            ratio = f", {peer / spent:.3g}×" if spent and peer else ""
            texts.append(f"{spent * 1e3:.4g} ms{ratio}" if spent else "not measured")
        if costs:
            texts.append(f"{cost[contender, evaluations]:.3g}")
        lines.append(f"| {contender} | {evaluations} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def publish(rows: list[Row], readme: Path) -> None:
    """Put the table in its place in the README."""
    before, _, rest = readme.read_text().partition(START)
    _, end, after = rest.partition(END)
    with written_whole(readme) as whole:
        whole.write_text(f"{before}{START}{markdown(rows)}\n{end}{after}")


def distances(facts: Row) -> dict[tuple[str, int], list[float]]:
    """Fréchet distances by (method, evaluations), one a seed, from what ``benchmarks/quality.py`` writes."""
    found: dict[tuple[str, int], list[float]] = {}
    for row in facts["rows"]:
        found.setdefault((row["method"], row["evaluations"]), []).append(row["quality"]["frechet"])
    return found


def methods_of(contender: str) -> tuple[str, ...]:
    """The methods whose samples a contender draws: a pipeline its own, all else STMD, however it was trained."""
    peers = {"diffusers ddim": "DDIM", "diffusers ddpm": "DDPM", "diffusers dpm++": "DPM-Solver++"}
    peer = peers.get(contender.split(",", maxsplit=1)[0])
    return ("STMD", "STMD calibrated") if peer is None else (peer,)


def plot(rows: list[Row], quality: Row | None, path: Path) -> None:
    """Latency against batch for each contender; quality against latency at the first batch where it is given."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, panels = plt.subplots(1, 1 if quality is None else 2, figsize=(14, 5) if quality else (7, 5), squeeze=False)
    lines: dict[str, list[Row]] = {}
    for row in rows:
        name = f"{row['model']}, {row['contender']}, NFE {row['evaluations']}, {row['precision']}"
        lines.setdefault(name, []).append(row)
    latency = panels[0, 0]
    for name, points in lines.items():
        milliseconds = [row["seconds"]["median"] * 1e3 for row in points]
        latency.plot([row["batch"] for row in points], milliseconds, "o-", label=name)
    latency.set(xscale="log", yscale="log", xlabel="batch", ylabel="milliseconds a batch, median")
    latency.legend(fontsize=6)
    if quality is not None:
        _plot_quality([row for row in rows if row["batch"] == rows[0]["batch"]], distances(quality), panels[0, 1])
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def _plot_quality(rows: list[Row], found: dict[tuple[str, int], list[float]], axes: Any) -> None:
    for row in (row for row in rows if not row["contender"].endswith("bare")):
        for method in methods_of(row["contender"]):
            if values := found.get((method, row["evaluations"])):
                spot = row["seconds"]["median"] * 1e3, statistics.mean(values)
                axes.plot(*spot, "o", label=f"{method}, {row['contender']}, NFE {row['evaluations']}")
    axes.set(xscale="log", xlabel=f"milliseconds, batch {rows[0]['batch']}", ylabel="Fréchet distance")
    axes.legend(fontsize=6)


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true")
    size.add_argument("--full", action="store_true")
    parser.add_argument("--models", nargs="+", default=None)
    parser.add_argument("--backends", nargs="+", choices=[*BACKENDS, *PEERS], default=None)
    parser.add_argument("--precisions", nargs="+", choices=list(PRECISIONS), default=None)
    parser.add_argument("--batches", nargs="+", type=int, default=None)
    parser.add_argument("--steps", nargs="+", type=int, default=None, help="N")
    parser.add_argument("--mean-flow-steps", nargs="+", type=int, default=None, help="M")
    parser.add_argument("--rounds", type=int, default=30, help="at most so many timed calls")
    parser.add_argument("--budget", type=float, default=None, help="seconds of rounds in one setting; three at least")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("latency.json"))
    parser.add_argument("--plot", type=Path, default=None)
    parser.add_argument("--publish", action="store_true", help="README's run, its JSON and picture in docs/")
    parser.add_argument("--quality", type=Path, default=None, help="a JSON of quality.py, for the plot")
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--publish" in arguments:
        arguments = [*PUBLISHED.split(), str(ROOT / "docs" / "latency-cpu.json"), *arguments]
    options = parser.parse_args(arguments)
    cuda = options.device != "cpu"
    options.models = options.models or (["mnist"] if options.quick else ["unet-mnist", *["unet-cifar10"] * cuda])
    quick = ["eager", *["captured"] * cuda, "onnx", "loop", "ddim"]
    usual = [*quick, "dpm++", "ddpm", *["openvino", "whole", "whole-openvino", "ddim-openvino"] * (not cuda)]
    options.backends = options.backends or (quick if options.quick else [*BACKENDS, *PEERS] if options.full else usual)
    options.budget = options.budget or (3.0 if options.quick else 12.0)
    return options


def main() -> None:
    options = parsed()
    torch.set_num_threads(options.threads)
    machine = measured_machine(torch.device(options.device))
    facts = environment(machine)
    print(f"{machine.device.type.upper()}: {facts['device']}, {options.threads} threads, load {facts['load_average']}")
    print(f"measured peak {machine.flops / 1e9:.0f} GFLOP/s, {machine.bandwidth / 1e9:.1f} GB/s")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = {model: checkpoint(model, folder) for model in options.models}
        for setting in grid(options):
            path = paths[setting.model]
            spec, module = load_model(path)
            x = torch.zeros(setting.batch, spec.in_channels, *spec.shape[1:])
            cost = evaluation_cost(module, x, torch.zeros(setting.batch, spec.times))
            usual = setting.batch == 1 and setting.mean_flow_steps == 1 and not options.quick
            found = list(contenders(path, folder, setting, options.backends, machine.device, usual=usual))
            if not found:
                continue
            rows += timed_rows(found, setting, machine, cost, options)
            with written_whole(options.out) as whole:  # after each setting: what is measured is not lost
                whole.write_text(json.dumps({"environment": facts, "rows": rows}, indent=1) + "\n")
            print(f"{len(rows)} rows, last {setting}", flush=True)
    if not rows:
        raise SystemExit("nothing was measured: every contender that was asked for was left out, as said above")
    print(table(rows), markdown(rows), sep="\n\n")
    quality = json.loads(options.quality.read_text()) if options.quality else None
    if options.plot:
        plot(rows, quality, options.plot)
    if options.publish:
        publish(rows, ROOT / "README.md")
        subprocess.run([sys.executable, str(ROOT / "docs" / "pictures.py"), "latency"], check=True)


if __name__ == "__main__":
    main()
