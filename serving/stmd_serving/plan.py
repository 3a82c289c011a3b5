"""What a server was asked to be, as plain values: the command's options, and what a config file of Ray Serve holds."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, final

from stmd_sdk.checks import check_integer
from stmd_sdk.errors import InvalidArgumentError
from stmd_sdk.files import check_writable, written_whole

from .limits import Limits

__all__ = ["APPLICATIONS", "TOKEN", "WORKERS", "Plan", "limits_of", "write_plan"]

WORKERS = "Workers"
APPLICATIONS = {"stmd-workers": "workers", "stmd": "ingress"}
"""By name the functions of :mod:`.deployment` that build them, in the order in which they start. They are two, so that
the ingress ends alone, while there are workers to answer what it is still answering."""
TOKEN = "STMD_TOKEN"
ADVICE = """\
# Written by: stmd serve --write-config. On a cluster (ray start --head, then ray start --address=HEAD:6379 elsewhere):
#   serve deploy {name}
# {token} is read where the head node was started. Models must lie at the same place on every machine. To scale with
# the load, put in place of num_replicas (args.replicas is the most that may run):
#   autoscaling_config: {{min_replicas: 1, max_replicas: {replicas}, target_ongoing_requests: 2}}
"""


@final
@dataclass(frozen=True)
class Plan:
    """Models by name or path, where to listen, and ``replicas`` of ``threads`` cores and ``gpus`` GPUs each.

    Raises :class:`InvalidArgumentError` for a host beyond this machine without a token: whoever finds the port could
    use it.
    """

    models: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int = 1
    threads: int = 1
    gpus: float = 0.0
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        check_integer("port", self.port, 1, 65535)
        check_integer("replicas", self.replicas, 1, 4096)
        check_integer("threads", self.threads, 1, 1024)
        if not 0 <= self.gpus <= 16:
            raise InvalidArgumentError(f"gpus must lie in 0 to 16, got {self.gpus}")
        if self.token is None and not _is_loopback(self.host):
            raise InvalidArgumentError(
                f"without a token the server listens on this machine alone: set {TOKEN} in the environment, or leave "
                f"out --host {self.host}"
            )

    @property
    def token(self) -> str | None:
        """What clients must send; it is in no file and in no list of processes."""
        token = os.environ.get(TOKEN, "")
        if token and (not token.isascii() or not token.isprintable() or token != token.strip()):
            raise InvalidArgumentError(f"{TOKEN} must be printable ASCII without spaces around it")
        return token or None

    @property
    def at_once(self) -> int:
        """Calls that are under way: one that each replica works at, and one that it goes on with."""
        return 2 * self.replicas


def limits_of(texts: list[str]) -> Limits:
    """Limits with those of ``samples=64`` and the like in their own's place."""
    values: dict[str, Any] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            values[name] = float(value) if name == "seconds" else int(value)
        except ValueError:
            raise InvalidArgumentError(f"--limit takes a bound and its value, as in samples=64; got {text!r}") from None
    known = [one.name for one in fields(Limits)]
    if odd := values.keys() - known:
        raise InvalidArgumentError(f"--limit knows {', '.join(known)}; got {sorted(odd)[0]!r}")
    return Limits(**values)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def write_plan(plan: Plan, out: Path) -> None:
    """A config file for ``serve run`` and ``serve deploy``."""
    import yaml  # noqa: PLC0415  comes with Ray

    check_writable(out)
    values: dict[str, Any] = {**asdict(plan), "models": list(plan.models)}
    config: dict[str, Any] = {
        "proxy_location": "EveryNode",
        "http_options": {"host": plan.host, "port": plan.port},
        "applications": [
            {
                "name": name,
                "route_prefix": "/" if builder == "ingress" else None,
                "import_path": f"stmd_serving.deployment:{builder}",
                "args": values,
            }
            for name, builder in APPLICATIONS.items()
        ],
    }
    config["applications"][0]["deployments"] = [{"name": WORKERS, "num_replicas": plan.replicas}]
    with written_whole(out) as path:
        advice = ADVICE.format(name=out.name, token=TOKEN, replicas=plan.replicas)
        path.write_text(advice + yaml.safe_dump(config, sort_keys=False))
