"""The models that a server was started with: nothing that a client says opens another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

from stmd_sdk.cli.drawer import model_digest
from stmd_sdk.cli.options import named
from stmd_sdk.config import read_json
from stmd_sdk.errors import CheckpointError, InvalidArgumentError
from stmd_sdk.files import is_file, read_bytes
from stmd_sdk.models.checkpoint import resolve_model
from stmd_sdk.models.spec import ModelSpec
from stmd_sdk.runs.opening import network_spec

__all__ = ["Served", "opened"]

CERTIFICATE_BYTES = 2**24


@final
@dataclass(frozen=True)
class Served:
    """A model by the ``name`` that clients call it, its file's stem; ``digest`` is the SHA-256 of its file.

    ``source`` is as the server's owner said it, ``spec`` its JSON, ``certificate`` the JSON NAME-certificate.json that
    lay beside it, as ``stmd certify`` writes them, or the empty string.
    """

    name: str
    source: str
    digest: str
    spec: str
    certificate: str

    @cached_property
    def model(self) -> ModelSpec:
        """The spec."""
        return ModelSpec.from_json(self.spec, self.name)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of a sample."""
        return self.model.codec.decoded_shape(self.model.shape)

    @property
    def draws_images(self) -> bool:
        """Whether samples are pictures, in grey or colour."""
        return len(self.shape) == 3 and self.shape[0] in (1, 3)

    def digest_now(self) -> str:
        """The digest of the file that is there now."""
        return model_digest(resolve_model(self.source))

    def described(self) -> dict[str, Any]:
        """What clients are told of it."""
        spec = read_json(self.spec, self.name, CheckpointError)
        certificate = read_json(self.certificate, self.name, CheckpointError) if self.certificate else None
        facts = {"inference_steps": self.model.default_inference_steps, "mean_flow_steps": self.model.flow_steps(None)}
        own = {"name": self.name, "digest": self.digest, "sample_shape": self.shape, "defaults": facts}
        return {**own, "spec": spec, "certificate": certificate}


def opened(sources: Sequence[str]) -> list[Served]:
    """The models of bundled names, files, folders of diffusers or names on the Hub; their weights are not loaded."""
    if not sources:
        raise InvalidArgumentError("there is no model to serve: name one, as in stmd serve mnist")
    found: dict[str, Served] = {}
    for source in sources:
        path, name = resolve_model(source), named(source)
        if name in found:
            raise InvalidArgumentError(
                f"{found[name].source} and {source} would both be called {name!r}: rename one of the files"
            )
        found[name] = Served(name, source, model_digest(path), network_spec(path).to_json(), _certificate(path, name))
    return list(found.values())


def _certificate(path: Path, name: str) -> str:
    beside = path.with_name(f"{name}-certificate.json")
    if not is_file(beside, CheckpointError):
        return ""
    text = read_bytes(beside, CheckpointError, CERTIFICATE_BYTES).decode(errors="replace")
    read_json(text, str(beside), CheckpointError)
    return text
