"""The load test of ``stmd serve``: throughput, waiting times, and whether every sample is the library's own.

    python benchmarks/serving.py [--clients 64] [--digits 16] [--seconds 60] [--kill] [--out serving.json]
    python benchmarks/serving.py --digits 4            # without seeds: how far small requests share buckets
    python benchmarks/serving.py --requests 10000      # memory, of the smallest requests that there are

First one process draws buckets of 16 with the same backend for as long, alone on the machine: its throughput is what
the service is held against, its samples are what the answers must be, bit for bit. Then the service is started and
timed to its first answer, and each client asks for its own of those samples, one request after the other. ``--kill``
sends SIGKILL to a replica at half time. Without seeds the samples are drawn again afterwards. All on this machine's
cores, the clients' work included.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from measuring import environment, measured_machine
from numpy.typing import NDArray

from stmd_sdk import Sampler

BUCKET = 16
Samples = NDArray[np.float32]
Keys = dict[tuple[int, int], Samples]


@dataclass
class Tally:
    """What came back: seconds of each answer, statuses, samples that were not the expected ones."""

    seconds: list[float] = field(default_factory=list[float])
    statuses: Counter[str] = field(default_factory=Counter[str])
    wrong: int = 0
    samples: int = 0
    later: list[tuple[int, int, Samples]] = field(default_factory=list[tuple[int, int, Samples]])


def alone(model: str, seconds: float, threads: int, least: int) -> tuple[float, Keys]:
    """Samples a second of one process in buckets of 16, and the samples themselves by (seed, first)."""
    torch.set_num_threads(threads)
    sampler, found = Sampler.from_pretrained(model), Keys()
    sampler.sample(BUCKET, seed=0, batch_invariant=True)
    began = time.perf_counter()
    while time.perf_counter() < began + seconds or len(found) < least:
        key = len(found) % 7, BUCKET * len(found)
        found[key] = sampler.sample(BUCKET, seed=key[0], first=key[1], batch_invariant=True).cpu().numpy()
    return BUCKET * len(found) / (time.perf_counter() - began), found


@contextmanager
def serving(arguments: list[str]) -> Generator[tuple[str, float], None, None]:
    """The address of a server on a free port, and how long it took to be ready."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "stmd_sdk", "serve", *arguments, "--port", str(port)]
    began, server = time.perf_counter(), subprocess.Popen(command, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            if server.poll() is not None or time.perf_counter() > began + 300:
                raise SystemExit("the server did not start")
            try:
                if httpx.get(f"{url}/healthz", timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.2)
        yield url, time.perf_counter() - began
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(180)


def replicas() -> dict[int, str]:
    """The service's own processes, by what Ray calls them."""
    found: dict[int, str] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            title = (process / "cmdline").read_text().replace("\0", " ").strip()
        except OSError:
            continue
        if title.startswith("ray::ServeReplica:stmd") or title.startswith("ray::ProxyActor"):
            found[int(process.name)] = title
    return found


def memory() -> dict[str, float]:
    """Resident megabytes of ingress, proxy and replicas."""
    sizes = Counter[str]()
    for process, title in replicas().items():
        try:
            pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        except OSError:
            continue
        sizes[title.split(":")[-1].split(".")[0].split("#")[0]] += pages * os.sysconf("SC_PAGE_SIZE")
    return {name: size / 2**20 for name, size in sizes.items()}


async def ask(client: httpx.AsyncClient, asked: dict[str, Any], expected: Samples | None, tally: Tally) -> None:
    """One request, and what became of it."""
    began = time.perf_counter()
    try:
        answer = await client.post("/v1/samples", json=asked)
    except httpx.HTTPError as error:
        tally.statuses[type(error).__name__] += 1
        return
    tally.statuses[str(answer.status_code)] += 1
    if answer.status_code != 200:
        return
    tally.seconds.append(time.perf_counter() - began)
    x = np.load(io.BytesIO(answer.content), allow_pickle=False)["x"]
    tally.samples += len(x)
    if expected is None:
        tally.later.append((int(answer.headers["X-STMD-Seed"]), int(answer.headers["X-STMD-First"]), x))
    else:
        tally.wrong += not np.array_equal(x, expected)


async def load(url: str, model: str, keys: Keys, options: argparse.Namespace) -> tuple[Tally, float, str]:
    """The tally of all clients, its seconds, and the server's own metrics afterwards."""
    tally, own = Tally(), list(keys.items())
    limits = httpx.Limits(max_connections=options.clients + 1, max_keepalive_connections=options.clients + 1)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=300) as client:
        began = time.perf_counter()

        async def one(number: int) -> None:
            turn = 0
            while time.perf_counter() < began + options.seconds:
                (seed, first), x = own[(number + options.clients * turn) % len(own)]
                asked: dict[str, Any] = {"model": model, "n": options.digits, "format": "npz"}
                whole = options.digits == BUCKET
                await ask(
                    client, asked | ({"seed": seed, "first": first} if whole else {}), x if whole else None, tally
                )
                turn += 1

        async def killer() -> None:
            if options.kill:
                await asyncio.sleep(options.seconds / 2)
                victim = next(pid for pid, title in replicas().items() if "Workers" in title)
                os.kill(victim, signal.SIGKILL)

        await asyncio.gather(killer(), *(one(number) for number in range(options.clients)))
        return tally, time.perf_counter() - began, (await client.get("/metrics")).text


async def smallest(url: str, model: str, options: argparse.Namespace) -> tuple[Tally, list[dict[str, float]]]:
    """Many requests of one sample in one step; memory after each tenth of them."""
    tally, sizes = Tally(), list[dict[str, float]]()
    asked = {"model": model, "n": 1, "inference_steps": 1, "format": "npz"}
    async with httpx.AsyncClient(base_url=url, timeout=300) as client:
        for _ in range(10):
            left = iter(range(options.requests // 10))

            async def one(left: Iterator[int]) -> None:
                for _ in left:
                    await ask(client, asked, None, tally)
                    tally.later.clear()

            await asyncio.gather(*(one(left) for _ in range(options.clients)))
            sizes.append(memory())
            print(json.dumps(sizes[-1]), flush=True)
    return tally, sizes


def redrawn(model: str, tally: Tally, most: int = 64) -> int:
    """How many of the answers without a seed, ``most`` of them, are not what their headers' keys draw."""
    sampler, step = Sampler.from_pretrained(model), max(1, len(tally.later) // most)
    return sum(
        not np.array_equal(x, sampler.sample(len(x), seed=seed, first=first, batch_invariant=True).cpu().numpy())
        for seed, first, x in tally.later[::step]
    )


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """One row: the load and what came of it."""
    arguments = [options.model, "--threads", str(options.threads)]
    arguments += ["--replicas", str(options.replicas)] if options.replicas else []
    if options.requests:
        with serving(arguments) as (url, start):
            tally, sizes = asyncio.run(smallest(url, Path(options.model).stem, options))
        grown = {name: sizes[-1][name] / sizes[0][name] - 1 for name in sizes[0]}
        grown["all"] = sum(sizes[-1].values()) / sum(sizes[0].values()) - 1
        return {
            "start": start,
            "requests": options.requests,
            "statuses": tally.statuses,
            "memory": sizes,
            "grown": grown,
        }
    bare, keys = alone(options.model, options.seconds, options.bare_threads, 2 * options.clients)
    torch.set_num_threads(options.threads)
    with serving(arguments) as (url, start):
        before = memory()
        tally, seconds, metrics = asyncio.run(load(url, Path(options.model).stem, keys, options))
        after = memory()
    fill = next(line.split()[1] for line in metrics.splitlines() if line.startswith("stmd_bucket_fill "))
    rate, times = tally.samples / seconds, sorted(tally.seconds)
    p50, p99 = (times[min(len(times) - 1, int(share * len(times)))] for share in (0.5, 0.99))
    return {
        "clients": options.clients, "digits": options.digits, "killed": options.kill, "start": start,
        "bare": bare, "throughput": rate, "share_of_bare": rate / bare, "p50": p50, "p99": p99,
        "p99_over_fair": p99 / (options.clients * options.digits / rate), "bucket_fill": float(fill),
        "statuses": tally.statuses, "wrong": tally.wrong + redrawn(options.model, tally),
        "memory_before": before, "memory_after": after,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mnist")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--digits", type=int, default=BUCKET)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--requests", type=int, default=0)
    parser.add_argument("--replicas", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bare-threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("serving.json"))
    options = parser.parse_args()
    row = measured(options)
    print(json.dumps(row, indent=1))
    facts = environment(measured_machine(torch.device("cpu")))
    options.out.write_text(json.dumps({"environment": facts, "row": row}, indent=1) + "\n")


if __name__ == "__main__":
    main()
