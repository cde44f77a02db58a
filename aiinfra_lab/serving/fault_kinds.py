"""The documents that order a fault, each kind with its fields and their ranges.

What they do is told in ``aiinfra_lab.serving.faults``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from aiinfra_lab.errors import InputError

_LONGEST = 3600.0  # seconds

Seconds = Annotated[float, Field(ge=0, le=_LONGEST)]
Duration = Annotated[float, Field(gt=0, le=_LONGEST)]
RetryAfter = Annotated[int, Field(ge=0, le=int(_LONGEST))]
Path = Annotated[str, Field(pattern=r"^/", max_length=200)]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class _Fault(_Document):
    for_s: Duration | None = None
    probability: Annotated[float, Field(ge=0, le=1)] = 1.0
    paths: Annotated[list[Path], Field(min_length=1, max_length=20)] = ["/predict"]
    seed: int = 0


class Latency(_Fault):
    """Answers come late."""

    kind: Literal["latency"]
    seconds: Seconds
    jitter: Seconds = 0.0


class Failure(_Fault):
    """Answers are errors."""

    kind: Literal["error"]
    status: Annotated[int, Field(ge=400, le=599)] = 500
    retry_after: RetryAfter | None = None


class Hang(_Fault):
    """No answers."""

    kind: Literal["hang"]


class Reset(_Fault):
    """Connections are reset after the request."""

    kind: Literal["reset"]


class Half(_Fault):
    """Answers stop in their middle."""

    kind: Literal["half"]


class Overload(_Fault):
    """Room for a few requests; the others are turned away."""

    kind: Literal["overload"]
    capacity: Annotated[int, Field(ge=0, le=10_000)]
    seconds: Seconds = 0.0
    retry_after: RetryAfter = 1


class Refuse(_Document):
    """Nobody listens."""

    kind: Literal["refuse"]
    for_s: Duration


AnyFault = Latency | Failure | Hang | Reset | Half | Overload | Refuse
_reader: TypeAdapter[AnyFault] = TypeAdapter(Annotated[AnyFault, Field(discriminator="kind")])


def read_fault(document: Any) -> AnyFault:
    """The fault that ``document`` describes.

    Raises
    ------
    InputError
        The kind or a field is unknown, missing or out of range.
    """
    try:
        return _reader.validate_python(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        # The first part of the place is the kind that the document names.
        where = ".".join(map(str, first["loc"][1:]))
        raise InputError(
            f"the fault cannot be used{f': {where}' if where else ''}: {first['msg']}"
        ) from None
