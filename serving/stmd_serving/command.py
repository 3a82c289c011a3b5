"""The work of ``stmd serve``: Ray on this machine, the service on it, and a tidy end."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout, suppress
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

from stmd_sdk.console import say
from stmd_sdk.errors import InvalidArgumentError, OutputError, first_line, requires_extra

from .plan import APPLICATIONS, Plan, write_plan

__all__ = ["serve_plan", "write_config_of"]


def serve_plan(plan: Plan) -> None:
    """Serve until SIGINT or SIGTERM; then what is being answered is answered."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own, 15, is for work that nobody waits for
    with requires_extra("serve"):
        import ray  # noqa: PLC0415  an extra, and seconds

    _check_free(plan.host, plan.port)
    stop, cores = threading.Event(), max(plan.replicas * plan.threads, os.cpu_count() or 1)
    with ThreadPoolExecutor(1) as aside:
        made = aside.submit(_applications, plan)  # PyTorch is imported while Ray's processes start
        ray.init("local", num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        try:
            for number in (signal.SIGINT, signal.SIGTERM):  # in place of Ray's own, which ends all at once
                signal.signal(number, lambda *_: stop.set())
            _serve(made.result(), plan, stop)
        finally:
            ray.shutdown()


def write_config_of(plan: Plan, out: Path) -> None:
    """Write the config file that serves the same elsewhere, once all models are found to be ones."""
    with requires_extra("serve"):
        catalogue = importlib.import_module("stmd_serving.catalogue")
        catalogue.opened(plan.models)
        write_plan(plan, out)


def _applications(plan: Plan) -> dict[str, Any]:
    """By name. Errors of models and of what is not installed show here."""
    with requires_extra("serve"):
        deployment = importlib.import_module("stmd_serving.deployment")
        importlib.import_module("python_multipart")  # which FastAPI would ask for in a replica
    values = {**asdict(plan), "models": list(plan.models)}
    return {name: getattr(deployment, builder)(values) for name, builder in APPLICATIONS.items()}


def _serve(applications: dict[str, Any], plan: Plan, stop: threading.Event) -> None:
    import ray  # noqa: PLC0415
    from ray import serve  # noqa: PLC0415

    *_, front = applications
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        serve.start(http_options={"host": plan.host, "port": plan.port})
        serve.run_many(
            [
                serve.RunTarget(target, name=name, route_prefix="/" if name == front else None)
                for name, target in applications.items()
            ]
        )
        say(f"{', '.join(plan.models)} at http://{plan.host}:{plan.port}, pages at /docs; Ctrl-C ends it")
        stop.wait()
    finally:
        with suppress(TimeoutError):
            serve.delete(front)  # it ends once it has answered; shutdown() would cut that off
        with redirect_stdout(StringIO()):  # where Ray prints that its controller was killed, which it does itself
            serve.shutdown()
            ray.shutdown()


def _check_free(host: str, port: int) -> None:
    """Raise where nobody can listen there, which Ray would say after half a minute."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except socket.gaierror as error:
        raise InvalidArgumentError(f"--host {host}: no such address ({first_line(error)})") from error
    except OSError as error:
        raise OutputError(f"{host}:{port}: cannot be listened on ({error.strerror})") from error
