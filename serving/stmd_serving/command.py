"""The work of ``stmd serve``: Ray on this machine, the service on it, and a tidy end."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import socket
import threading
from contextlib import suppress
from dataclasses import asdict

from stmd_sdk.console import say
from stmd_sdk.errors import InvalidArgumentError, OutputError, first_line, requires_extra

from .catalogue import opened
from .plan import APPLICATION, Plan

__all__ = ["serve_plan"]


def serve_plan(plan: Plan) -> None:
    """Serve until SIGINT or SIGTERM; then what is being answered is answered."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with requires_extra("serve"):
        import ray  # noqa: PLC0415
        from ray import serve  # noqa: PLC0415

        from .deployment import application  # noqa: PLC0415

        importlib.import_module("python_multipart")  # which FastAPI would ask for in a replica

    opened(plan.models)
    _check_free(plan.host, plan.port)
    stop = threading.Event()
    cores = max(plan.replicas * plan.threads, len(os.sched_getaffinity(0)))
    ray.init("local", num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    for number in (signal.SIGINT, signal.SIGTERM):  # in place of Ray's own, which ends all at once
        signal.signal(number, lambda *_: stop.set())
    try:
        serve.start(http_options={"host": plan.host, "port": plan.port})
        serve.run(application({**asdict(plan), "models": list(plan.models)}), name=APPLICATION)
        say(f"{', '.join(plan.models)} at http://{plan.host}:{plan.port}, pages at /docs; Ctrl-C ends it")
        stop.wait()
    finally:
        with suppress(TimeoutError):
            serve.delete(APPLICATION)  # once it has answered what it is answering, which shutdown() would cut off
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
