"""Jupyter's messages, as far as grading speaks them: requests out, outputs in.

What comes in was written by a stranger. It is not authenticated: the key lies in the kernel's
memory, next to the submission, so a signature proves nothing here.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

_DELIMITER = b"<IDS|MSG>"
_DEEPEST = 100
_OUTPUTS = ("stream", "display_data", "execute_result", "error")


@dataclass(frozen=True)
class Incoming:
    """One message, its parts checked for their types and nothing else."""

    kind: str
    parent: str
    content: dict[str, Any]


def new_key() -> str:
    """A key that signs the messages to one kernel."""
    return secrets.token_hex(16)


def execute_request(source: str, key: str) -> tuple[str, list[bytes]]:
    """A request to run ``source``, and its id, which every answer to it names."""
    name = secrets.token_hex(16)
    header = {
        "msg_id": name,
        "msg_type": "execute_request",
        "username": "",
        "session": "",
        "date": datetime.now(UTC).isoformat(),
        "version": "5.3",
    }
    content = {
        "code": source,
        "silent": False,
        "store_history": False,
        "user_expressions": {},
        "allow_stdin": False,
        "stop_on_error": False,
    }
    parts = [json.dumps(part).encode() for part in (header, {}, {}, content)]
    signature = hmac.new(key.encode(), digestmod=hashlib.sha256)
    for part in parts:
        signature.update(part)
    return name, [_DELIMITER, signature.hexdigest().encode(), *parts]


def read_message(frames: Sequence[bytes]) -> Incoming | None:
    """A message; None where it cannot be read."""
    try:
        start = list(frames).index(_DELIMITER) + 2
        header, parent, _, content = (_load(frame) for frame in frames[start : start + 4])
        kind, name = header["msg_type"], parent.get("msg_id", "")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError):
        return None
    if isinstance(kind, str) and isinstance(name, str) and isinstance(content, dict):
        return Incoming(kind, name, content)
    return None


def _load(frame: bytes) -> Any:
    text = frame.decode()
    # Half a surrogate pair is legal in JSON's notation and in no file that we could write.
    value = json.loads(text)
    if text.count("[") + text.count("{") > _DEEPEST and not _is_flat(value, _DEEPEST):
        raise ValueError("nested too deeply")
    return _writable(value) if "\\ud" in text or "\\uD" in text else value


def _is_flat(value: Any, depth: int) -> bool:
    """Whether whoever goes through ``value`` by recursion comes back."""
    items = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(items, list):
        return True
    return depth > 0 and all(_is_flat(item, depth - 1) for item in items)


def _writable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_writable(item) for item in value]
    if isinstance(value, dict):
        return {_writable(key): _writable(item) for key, item in value.items()}
    return value


def output_of(message: Incoming) -> dict[str, Any] | None:
    """The output that a message brings, as a notebook stores it; None where it brings none."""
    content = message.content
    if message.kind not in _OUTPUTS:
        return None
    if message.kind == "stream":
        name, text = content.get("name"), content.get("text")
        if name in ("stdout", "stderr") and isinstance(text, str):
            return {"output_type": "stream", "name": name, "text": text}
        return None
    if message.kind == "error":
        trace = content.get("traceback")
        lines = [str(line) for line in trace] if isinstance(trace, list) else []
        words = {key: str(content.get(key, "")) for key in ("ename", "evalue")}
        return {"output_type": "error", **words, "traceback": lines}
    data, metadata = content.get("data"), content.get("metadata")
    if not isinstance(data, dict):
        return None
    output: dict[str, Any] = {
        "output_type": message.kind,
        "data": data,
        "metadata": metadata if isinstance(metadata, dict) else {},
    }
    if message.kind == "execute_result":
        output["execution_count"] = None
    return output
