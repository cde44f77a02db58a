"""What the runtime's client raises, and how an error crosses the socket."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiinfra_lab.errors import AIInfraLabError, InputError

_FIELDS = ("needed", "found", "fix")


class RuntimeGone(AIInfraLabError):
    """The runtime has ended, or none answers."""


class NotRunning(AIInfraLabError):
    """The container has ended, or there never was one of that id."""


def described(error: AIInfraLabError) -> dict[str, Any]:
    """The error as fields of an answer."""
    fields = {name: getattr(error, name) for name in _FIELDS}
    return {"error": type(error).__name__, "message": error.message, **fields}


def error_of(answer: Mapping[str, Any]) -> AIInfraLabError:
    """The error that an answer carries."""
    known: dict[str, type[AIInfraLabError]] = {"NotRunning": NotRunning, "InputError": InputError}
    kind = known.get(answer["error"], AIInfraLabError)
    return kind(answer["message"], **{name: answer.get(name) for name in _FIELDS})
