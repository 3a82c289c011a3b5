"""``stmd serve``: models over HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ..console import exit_on_error, say

__all__ = ["serve"]


def serve(
    models: Annotated[
        list[str], typer.Argument(help="Bundled models, model files or owner/name on the Hub; clients say the stem.")
    ],
    host: Annotated[
        str, typer.Option(help="Where to listen; beyond this machine with STMD_TOKEN alone.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port.")] = 8000,
    replicas: Annotated[int | None, typer.Option(help="Processes that draw. Default: one a core, at most 4.")] = None,
    threads: Annotated[int, typer.Option(help="Cores of each.")] = 1,
    gpus: Annotated[float, typer.Option(help="GPUs of each; .5 for two on one.")] = 0.0,
    most: Annotated[
        list[str] | None,
        typer.Option(
            "--limit",
            help="A bound, as in samples=64; also evaluations, draws, size, pixels, waiting, seconds. Repeatable.",
        ),
    ] = None,
    write_config: Annotated[
        Path | None, typer.Option(help="Write a config file for serve deploy on a cluster, and serve nothing.")
    ] = None,
) -> None:
    """Serve models over HTTP: samples, restorations, pages at /docs that say how.

    Requests that arrive together share evaluations, and no sample depends on it. With STMD_TOKEN in the environment
    clients must send it.

    [dim]stmd serve mnist[/dim]
    [dim]STMD_TOKEN=secret stmd serve mnist runs/faces/model.onnx --host 0.0.0.0 --limit seconds=30[/dim]
    [dim]stmd serve mnist --replicas 64 --write-config serve.yaml[/dim]
    """
    with exit_on_error():
        # After --help has been answered.
        from stmd_serving.command import serve_plan, write_config_of  # noqa: PLC0415
        from stmd_serving.plan import Plan, limits_of  # noqa: PLC0415

        number = min(4, max(1, (os.cpu_count() or 1) // max(1, threads))) if replicas is None else replicas
        plan = Plan(tuple(models), host, port, number, threads, gpus, limits_of(most or []))
        if write_config is None:
            serve_plan(plan)
        else:
            write_config_of(plan, write_config)
            say(f"written to {write_config}; serve deploy {write_config} starts it")
