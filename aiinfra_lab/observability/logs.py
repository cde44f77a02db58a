"""Logs as lines of JSON, for programs that ask for them.

Libraries only get a logger; a program calls ``configure`` once at its start. Nothing here
happens at import.
"""

from __future__ import annotations

import contextlib
import json as jsonlib
import logging
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, TextIO

from aiinfra_lab.errors import InputError

_bound: ContextVar[Mapping[str, Any]] = ContextVar("bound", default=MappingProxyType({}))

# What every record has; anything else came by ``extra=``.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_OWN = frozenset({"ts", "level", "logger", "message", "exception", "stack"})


def configure(
    level: int | str = "INFO", *, json: bool | None = None, stream: TextIO | None = None
) -> None:
    """Send the logs of this process to ``stream``; a second call replaces the first.

    Other handlers of the root logger are left alone.

    Parameters
    ----------
    level : int or str
        The least level that is written, by number or name.
    json : bool, optional
        Lines of JSON, or lines for people; by default JSON unless ``stream`` is a terminal.
    stream : text file, optional
        Standard error by default, whatever that is at the time of each line.

    Raises
    ------
    InputError
        There is no such level.
    """
    known = logging.getLevelNamesMapping()
    number = known.get(level.upper()) if isinstance(level, str) else level
    if number is None:
        raise InputError(f"there is no log level {level!r}", needed=f"one of {', '.join(known)}")
    if json is None:
        json = not (stream or sys.stderr).isatty()
    handler = _Handler(stream)
    handler.setFormatter(JsonFormatter() if json else _TextFormatter())
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(number)


@contextlib.contextmanager
def bind(**fields: Any) -> Iterator[None]:
    """Add ``fields`` to every line that this thread or task logs inside the block."""
    token = _bound.set(MappingProxyType({**_bound.get(), **fields}))
    try:
        yield
    finally:
        _bound.reset(token)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ts (UTC), level, logger, message, bound and extra fields.

    A field that has a name of ours gets an underscore; a value that is not JSON is written
    as text. A record never fails to be written because of what it carries.
    """

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
        }
        for name, value in _fields(record).items():
            entry[f"{name}_" if name in _OWN else name] = _plain(value)
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            entry["stack"] = record.stack_info
        return jsonlib.dumps(entry)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%SZ")
        fields = "".join(f" {name}={_text(value)}" for name, value in _fields(record).items())
        line = f"{moment} {record.levelname:<7} {record.name}: {_message(record)}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to the standard error of the moment: pytest and notebooks replace it."""

    def __init__(self, stream: TextIO | None) -> None:
        self._own = stream
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return self._own or sys.stderr


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    return {**_bound.get(), **extra}


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # arguments that do not fit the text, or that cannot be printed
        return f"{record.msg} {_text(record.args)}"


def _plain(value: Any) -> Any:
    """``value`` as JSON has it; text for what JSON has not."""
    if isinstance(value, str):
        return value
    try:
        return jsonlib.loads(jsonlib.dumps(value, allow_nan=False, default=_text))
    except (TypeError, ValueError, RecursionError):
        return _text(value)


def _text(value: Any) -> str:
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__name__} that cannot be printed>"
