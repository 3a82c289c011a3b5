"""The HTTP application: what clients see, with pages at /docs that say it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import FastAPI, File, Form, Path, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from stmd_sdk import __version__
from stmd_sdk.errors import DataError, InvalidArgumentError, StmdError

from .asked import Drawn, Failure, Picture, SampleRequest
from .catalogue import Served
from .engine import Engine
from .guard import Guard
from .limits import Limits, RefusedError
from .metrics import Metrics
from .pictures import OPERATORS
from .replies import NPZ, PNG, restoration_reply, sample_reply
from .service import Asked, Service, fresh_name

__all__ = ["build_app"]

NAME: Final = r"^[A-Za-z0-9_-]{1,64}$"
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Failure, "description": said}
    for status, said in {
        401: "The token is missing or wrong.",
        404: "No such model, or no such restoration.",
        408: "It took longer than a request may.",
        413: "The request is too large.",
        422: "What is asked for means nothing, or is more than the server allows.",
        429: "The queue is full.",
        503: "No replica is there to answer.",
    }.items()
}
ABOUT = """
Samples, and restored pictures with their uncertainty, of one- and few-step diffusion models.

**Draw a picture**

    curl localhost:8000/v1/samples --json '{"model": "mnist", "n": 16, "seed": 0}' -o digits.png

Sample k of a seed is always the same, whoever else is being answered; every answer says what draws it again
(headers `X-STMD-…`). A server with a token wants the header `Authorization: Bearer TOKEN`.
"""


def build_app(engine: Engine, served: Sequence[Served], limits: Limits, at_once: int, token: str | None) -> FastAPI:
    """The application in front of an engine of which ``at_once`` calls run at a time; ``token`` None asks for none."""
    app = FastAPIOffline(title="STMD", version=__version__, description=ABOUT, redoc_url=None, responses=REFUSALS)
    service = Service(engine, served, limits, at_once)
    metrics = Metrics(service.batcher)
    app.add_middleware(Guard, limits=limits, token=token, answered=metrics.answered)
    _add_failures(app)
    _add_samples(app, service)
    _add_restorations(app, service)
    _add_watching(app, service, metrics)
    return app


def _add_samples(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models", tags=["models"])
    async def models() -> list[dict[str, Any]]:
        """The models: their specs, the digests of their files, and what `stmd certify` said of them."""
        return [one.described() for one in service.served.values()]

    content = {PNG: {}, NPZ: {"schema": {"type": "string", "format": "binary"}}}

    @app.post(
        "/v1/samples", tags=["samples"], response_class=Response, responses={200: {"model": Drawn, "content": content}}
    )
    async def samples(asked: SampleRequest) -> Response:
        """Draw samples. Those without a seed are nobody else's; the answer says their seed and first index."""
        drawn = await service.draw(asked)
        return await asyncio.to_thread(sample_reply, drawn, asked.format)


def _add_restorations(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/restorations",
        tags=["restorations"],
        response_class=Response,
        responses={200: {"content": {PNG: {}, NPZ: {}}}},
    )
    async def restorations(
        image: Annotated[UploadFile, File(description="The damaged picture, 8 bits, grey or colour.")],
        operator: Annotated[str, Form(description=f"What damaged it: {OPERATORS}.", max_length=100)],
        mask: Annotated[UploadFile | None, File(description="Of operator mask: black hides, white shows.")] = None,
        model: Annotated[str | None, Form(description="A model's name; null where one alone is served.")] = None,
        draws: Annotated[int, Form(ge=2, description="How many restored pictures.")] = 16,
        levels: Annotated[int, Form(ge=1, description="Network evaluations of each draw.")] = 40,
        sigma: Annotated[float | None, Form(gt=0, lt=100, description="The noise, of pictures in -1 to 1.")] = None,
        seed: Annotated[int | None, Form(ge=0, lt=2**64)] = None,
        id: Annotated[str | None, Form(pattern=NAME, description="A name by which to follow it.")] = None,
        format: Annotated[Picture, Form(description="png: labelled; npz: draws, mean, deviation, y.")] = "png",
    ) -> Response:
        """Draw what a damaged picture may have been: draws, their mean and their deviation."""
        shown = None if mask is None else await mask.read()
        asked = Asked(model, await image.read(), shown, operator, sigma, draws, levels, seed, id or fresh_name())
        found = await service.restore(asked)
        return await asyncio.to_thread(restoration_reply, *found, format)

    @app.get("/v1/restorations/{id}/events", tags=["restorations"], response_class=StreamingResponse)
    async def events(id: Annotated[str, Path(pattern=NAME)]) -> StreamingResponse:
        """Follow a restoration: events `waiting`, `level` with `done` of `total`, and `done` or `error` at last."""
        followed = await service.following.find(id)
        return StreamingResponse(
            followed.lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )


def _add_watching(app: FastAPI, service: Service, metrics: Metrics) -> None:
    @app.get("/healthz", tags=["watching"])
    async def healthz() -> dict[str, str]:
        """200 where a request would be answered now, else 503."""
        if not await service.engine.ready():
            raise RefusedError(503, "no replica is ready")
        return {"status": "ready"}

    @app.get("/metrics", tags=["watching"], response_class=Response)
    async def prometheus() -> Response:
        """Answers, queue and how full buckets are, as Prometheus reads them."""
        return Response(metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _add_failures(app: FastAPI) -> None:
    """Every failure is JSON with one line that says it."""

    @app.exception_handler(RequestValidationError)
    async def unreadable(request: Request, error: RequestValidationError) -> JSONResponse:
        return _failure(422, "; ".join(dict.fromkeys(map(_said, error.errors())))[:1000])

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> JSONResponse:
        return _failure(error.status, str(error), {"Retry-After": "1"} if error.status in (429, 503) else None)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        return _failure(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(StmdError)
    async def wrong(request: Request, error: StmdError) -> JSONResponse:
        bad = isinstance(error, (InvalidArgumentError, DataError))
        return _failure(422 if bad else HTTPStatus.INTERNAL_SERVER_ERROR, str(error))


def _failure(status: int, message: str, headers: Any = None) -> JSONResponse:
    return JSONResponse({"error": message}, status, headers)


def _said(error: dict[str, Any]) -> str:
    """``seed: Input should be greater than or equal to 0``; of JSON where it breaks."""
    where = ".".join(str(part) for part in error["loc"][1:2])
    if error["type"] == "json_invalid":
        return f"the body is not JSON: {error.get('ctx', {}).get('error', 'it ends too early')}, at character {where}"
    return f"{where}: {error['msg']}" if where else "the body must be a JSON object, of Content-Type: application/json"
