"""The HTTP surface of one model: predict, health, readiness, metrics, and a change of model."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, ValidationError

from aiinfra_lab.errors import InputError
from aiinfra_lab.serving.bodies import (
    App,
    BodyTooLarge,
    ClientGone,
    ClosingAnswer,
    JsonAnswer,
    read_body,
    refusal,
)
from aiinfra_lab.serving.engine import Engine, Overloaded
from aiinfra_lab.serving.instances import MalformedJson, answer, parse_instances, parse_json
from aiinfra_lab.serving.traffic import CONTENT_TYPE, Traffic

if TYPE_CHECKING:
    from aiinfra_lab.serving.faults import Faults
    from aiinfra_lab.serving.session import Session

DEADLINE_HEADER = "x-request-timeout"
_SMALL_BODY = 64 << 10


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may cost.

    Attributes
    ----------
    max_body : int
        Bytes of a body. 100 digits of 28 × 28 are 300 kB of JSON.
    max_batch : int
        Instances of a request.
    body_timeout : float
        Seconds in which a body must have arrived.
    """

    max_body: int = 4 << 20
    max_batch: int = 256
    body_timeout: float = 10.0


class Change(BaseModel):
    """The body of ``PUT /model``."""

    model_config = ConfigDict(extra="forbid", strict=True)
    folder: str


def create_app(
    engine: Engine,
    *,
    limits: Limits | None = None,
    models: Path | None = None,
    faults: Faults | None = None,
) -> tuple[App, Traffic]:
    """The server as an ASGI application, and its metrics.

    Parameters
    ----------
    engine : Engine
        Does the work.
    limits : Limits, optional
        What one request may cost.
    models : Path, optional
        The folder below which ``PUT /model`` may name bundles; None: there is no such endpoint.
    faults : Faults, optional
        The faults that can be ordered; None: there are none, and no endpoint.
    """
    limits, traffic = limits or Limits(), Traffic(engine)
    # The pages of documentation would fetch scripts from elsewhere; the schema stays.
    app = FastAPI(
        title="aiinfra model server", docs_url=None, redoc_url=None, redirect_slashes=False
    )
    _add_handlers(app)
    _add_predict(app, engine, limits)
    _add_probes(app, engine, traffic)
    if models is not None:
        _add_change(app, engine, models, limits)
    inner: App = app
    if faults is not None:
        faults.add_routes(app, limits.body_timeout)
        inner = faults.around(app, limits.max_body)
    return traffic.around(inner), traffic


def _add_handlers(app: FastAPI) -> None:
    """One answer for each way in which a request can be refused."""

    @app.exception_handler(MalformedJson)
    async def malformed(_: Request, error: MalformedJson) -> Response:
        # RFC 9110: 422 is for content whose syntax is right.
        return refusal(400, str(error))

    @app.exception_handler(InputError)
    async def unusable(_: Request, error: InputError) -> Response:
        return refusal(422, str(error))

    @app.exception_handler(BodyTooLarge)
    async def too_large(_: Request, error: BodyTooLarge) -> Response:
        return ClosingAnswer(413, f"the body is larger than {error.limit} bytes")

    @app.exception_handler(ClientGone)
    async def gone(_: Request, error: ClientGone) -> Response:
        return refusal(400, "the request ended before its body was complete")

    @app.exception_handler(Overloaded)
    async def overloaded(_: Request, error: Overloaded) -> Response:
        sentence = "the server has no room for another request; try again later"
        return refusal(503, sentence, {"Retry-After": str(error.retry_after)})

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> Response:
        return refusal(500, "the server has a fault; its log has the details")


def _add_predict(app: FastAPI, engine: Engine, limits: Limits) -> None:
    @app.post("/predict", openapi_extra=_predict_schema())
    async def predict(request: Request) -> Response:
        """Classify one instance or a batch."""
        deadline = _deadline(request.headers.get(DEADLINE_HEADER))
        try:
            body = await read_body(
                request.headers, request.receive, limits.max_body, limits.body_timeout
            )
        except TimeoutError:
            return ClosingAnswer(408, f"the body took longer than {limits.body_timeout:g} s")

        def job(session: Session) -> bytes:
            spec = session.manifest.input
            instances, single = parse_instances(body, spec, limits.max_batch)
            return answer(session.manifest, session.predict(instances), single)

        try:
            return JsonAnswer(await engine.run(job, deadline=deadline))
        except TimeoutError:
            return refusal(504, f"no answer within the {deadline:g} s that the request allows")


def _deadline(header: str | None) -> float | None:
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InputError(
            f"the header {DEADLINE_HEADER} cannot be used",
            found=json.dumps(header[:40]),
            needed="seconds above 0",
        )
    return seconds


def _predict_schema() -> dict[str, Any]:
    fields = {"instances": {"type": "array", "minItems": 1, "items": {}}, "instance": {}}
    one_of = [
        {"type": "object", "properties": {n: s}, "required": [n], "additionalProperties": False}
        for n, s in fields.items()
    ]
    words = {
        400: "no JSON",
        408: "the body came too slowly",
        413: "the body is too large",
        422: "JSON, but no instances of the model's input",
        503: "no room; Retry-After says when to come back",
        504: "the deadline has passed",
    }
    body = {"required": True, "content": {"application/json": {"schema": {"oneOf": one_of}}}}
    return {
        "requestBody": body,
        "responses": {str(n): {"description": w} for n, w in words.items()},
    }


def _add_probes(app: FastAPI, engine: Engine, traffic: Traffic) -> None:
    @app.get("/healthz")
    async def healthz() -> Response:
        """Whether the process is alive; restart it if not."""
        return JsonAnswer({"status": "alive"})

    @app.get("/readyz")
    async def readyz() -> Response:
        """Whether to send it requests."""
        if engine.draining:
            return refusal(503, "the server is ending and takes no new requests")
        manifest = engine.session.manifest
        return JsonAnswer({"status": "ready", "model": manifest.name, "version": manifest.version})

    @app.get("/metrics")
    async def metrics() -> Response:
        """All metrics in Prometheus's text format."""
        return Response(traffic.text(), media_type=CONTENT_TYPE)


def _add_change(app: FastAPI, engine: Engine, models: Path, limits: Limits) -> None:
    root = models.resolve()

    @app.put("/model")
    async def change(request: Request) -> Response:
        """Serve another bundle from now on."""
        try:
            body = await read_body(
                request.headers, request.receive, _SMALL_BODY, limits.body_timeout
            )
        except TimeoutError:
            return ClosingAnswer(408, f"the body took longer than {limits.body_timeout:g} s")
        before = await asyncio.to_thread(engine.change, _folder(body, root))
        old, new = before.manifest, engine.session.manifest
        return JsonAnswer(
            {
                "model": new.name,
                "version": new.version,
                "before": {"model": old.name, "version": old.version},
            }
        )


def _folder(body: bytes, root: Path) -> Path:
    try:
        wanted = Change.model_validate(parse_json(body)).folder
        folder = (root / wanted).resolve()
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise InputError(
            f"{where} cannot be used: {first['msg']}", needed='{"folder": "..."}'
        ) from None
    except (ValueError, OSError):  # a zero byte, half a character, a loop of links
        raise InputError("folder is no path", needed=f"a folder below {root}") from None
    if not folder.is_relative_to(root):
        raise InputError(
            "the folder lies outside the models' root",
            found=json.dumps(wanted[:200]),
            needed=f"a folder below {root}",
        )
    return folder
