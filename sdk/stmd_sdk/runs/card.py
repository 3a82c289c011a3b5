"""A model put on the Hub: its file, a card that says what it is and how true its draws are, and a grid of samples."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from torch import Tensor

from ..backends.torch import TorchNetwork
from ..config import read_json
from ..diffusion.network import Network
from ..errors import InvalidArgumentError
from ..files import brief, read_bytes
from ..hub import check_repository
from ..images import grid, png_bytes
from ..models.checkpoint import save_model
from ..models.spec import ModelSpec
from .description import describe_spec

__all__ = ["model_card", "model_file", "publish_model"]

MODEL_FILE, CARD, PICTURE, CERTIFICATE = "model.safetensors", "README.md", "samples.png", "certificate.json"
CERTIFICATE_BYTES = 2**24
SHOWN, POINTS = 16, 4096  # samples of the card's picture: images, or points of the plane


@contextmanager
def model_file(network: Network, spec: ModelSpec) -> Generator[Path, None, None]:
    """A file of a network in memory, for as long as the block lasts: the bytes that its training would write."""
    if not isinstance(network, TorchNetwork) or network.dtype != torch.float32:
        raise InvalidArgumentError(
            f"the weights of {spec.name} are not here as PyTorch's, in float32: put its file there with stmd push"
        )
    with TemporaryDirectory() as folder:
        file = Path(folder) / MODEL_FILE
        save_model(file, spec, network.module.state_dict())
        yield file


def publish_model(
    name: str,
    model: Path,
    spec: ModelSpec,
    draw: Callable[..., Tensor],
    certificate: str | Path | None,
    private: bool,
) -> str:
    """Put a model's file, its card and what the card shows on the Hub in one commit; the address of the commit.

    ``draw`` is the sampler's ``sample``. Wrong names, files and certificates show before anything is drawn.
    """
    from ..hub.client import published  # noqa: PLC0415  takes a second to import

    check_repository(name)
    if model.suffix != ".safetensors":
        raise InvalidArgumentError(f"{model}: what goes there is a .safetensors file of this project, and this is none")
    found = None if certificate is None else _certificate(Path(certificate), spec)
    files: dict[str, bytes | Path] = {MODEL_FILE: model}
    shape = spec.codec.decoded_shape(spec.shape)
    drawable = shape == (2,) or (len(shape) == 3 and shape[0] in (1, 3))
    if drawable:
        n = POINTS if shape == (2,) else SHOWN
        labels = None if spec.classes is None else [i % spec.classes.count for i in range(n)]
        files[PICTURE] = png_bytes(grid(draw(n, labels=labels, seed=0)))
    if certificate is not None:
        files[CERTIFICATE] = Path(certificate)
    files[CARD] = model_card(name, spec, found, picture=drawable).encode()
    return published(name, files, private=private, message=f"{spec.name}, by stmd-sdk")


def _certificate(path: Path, spec: ModelSpec) -> dict[str, Any]:
    """The JSON that ``stmd certify`` wrote of the model; raises :class:`InvalidArgumentError` for any other."""
    data = read_bytes(path, InvalidArgumentError, CERTIFICATE_BYTES)
    values: Any = read_json(data, str(path), InvalidArgumentError)
    match values:
        case {"model": str(model), "verdict": "pass" | "fail", "data": str(), "pairs": int(), "findings": [*findings]}:
            if model != spec.name:
                raise InvalidArgumentError(f"{path}: is the certificate of {brief(model)}, not of {spec.name}")
            if findings and all(map(_is_finding, findings)):
                return cast(dict[str, Any], values)
        case _:
            pass
    raise InvalidArgumentError(f"{path}: is no certificate, as stmd certify writes them")


def _is_finding(one: Any) -> bool:
    match one:
        case {
            "measure": str(),
            "t": int() | float(),
            "value": int() | float(),
            "standard_error": int() | float(),
            "within": bool(),
        }:
            return True
        case _:
            return False


def model_card(name: str, spec: ModelSpec, certificate: dict[str, Any] | None, *, picture: bool) -> str:
    """The card, in Markdown: how to draw, what the spec says, how true the draws are."""
    shape = spec.codec.decoded_shape(spec.shape)
    what = f"images, {' x '.join(map(str, shape))}" if len(shape) == 3 else f"vectors of {shape[0]}"
    parts = [
        "---\nlibrary_name: stmd-sdk\ntags:\n- diffusion\n- stmd\n---",
        f"# {_plain(spec.name)}",
        f"A diffusion model of {what}, sampled as its reverse SDE: draws of p(x_0 | x_t) and the bridge to x_s, in "
        f"{spec.default_inference_steps} steps where nobody says otherwise.",
        *([f"![samples]({PICTURE})"] if picture else []),
        "```python\nfrom stmd_sdk import Sampler\n\n"
        f'samples = Sampler.from_pretrained("{name}").sample(64, seed=0)\n```',
        _table(("", ""), ((fact, value) for fact, value in describe_spec(spec))),
        _evidence(certificate),
    ]
    return "\n\n".join(parts) + "\n"


def _evidence(certificate: dict[str, Any] | None) -> str:
    if certificate is None:
        return "No certificate came with it: how true its draws are, `stmd certify` says."
    findings: list[dict[str, Any]] = certificate["findings"]
    times = list(dict.fromkeys(one["t"] for one in findings))
    rows: list[tuple[str, ...]] = []
    for measure in dict.fromkeys(one["measure"] for one in findings):
        of = {one["t"]: one for one in findings if one["measure"] == measure}
        rows.append((str(measure), *(_estimate(of[t]) if t in of else "" for t in times)))
    passed = certificate["verdict"] == "pass"
    verdict = "It passes its certificate" if passed else "It does *not* pass its certificate; off are the bold ones"
    command = f"`stmd certify` on {certificate['data']}, {certificate['pairs']} pairs at each t, ± standard error."
    table = _table(("measure", *(f"t = {t:g}" for t in times)), rows)
    match certificate:
        case {"variety": {"says": str(says)}}:
            table += f"\n\n{_plain(brief(says))}"
        case _:  # of mixtures, and of certificates from before there was any
            pass
    return f"**How good it is.** {verdict}: {command}\n\n{table}"


def _estimate(finding: dict[str, Any]) -> str:
    text = f"{finding['value']:.3f} ± {finding['standard_error']:.3f}"
    return text if finding["within"] else f"**{text}**"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *((_plain(cell) for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """A model's own strings, without what would break a line or a table or be a tag of HTML."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return line.replace("|", "\\|").replace("<", "&lt;")
