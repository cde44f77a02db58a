"""What can go wrong between the client and a model server, by who has to mend it.

An ``EndpointFailed`` is the server's or the network's: it counts at the breaker, and the client
asks again or elsewhere. A ``RequestRejected`` is the caller's: no other server would take the
request, and no fallback may hide it. ``ServiceUnavailable`` is what is left when nobody answered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from aiinfra_lab.errors import AIInfraLabError, InputError

_SHOWN = 200  # characters of a server's words that go into a sentence


class ClientClosed(InputError):
    """The client was used before ``async with`` or after it, or was closed during the call."""

    def __init__(self) -> None:
        super().__init__(
            "the client has no connections outside its `async with` block",
            fix="Open it once for the life of the program: async with MLServiceClient(...).",
        )


class RequestRejected(AIInfraLabError):
    """The server answered, and says that the request itself is wrong (4xx).

    ``status`` is the HTTP status, ``detail`` what the server said about it (JSON, or a text),
    ``endpoint`` who said it.
    """

    exit_code = 2

    def __init__(self, status: int, detail: object, endpoint: str) -> None:
        self.status, self.detail, self.endpoint = status, detail, endpoint
        words = detail if isinstance(detail, str) else json.dumps(detail)
        super().__init__(f"{endpoint} rejects the request with status {status}: {_short(words)}")


class EndpointFailed(AIInfraLabError):
    """One attempt at one endpoint failed for a reason that is not the caller's.

    ``endpoint`` is its URL, ``outcome`` the kind of failure as one word for metrics.
    """

    outcome = "failed"

    def __init__(self, endpoint: str, message: str) -> None:
        self.endpoint = endpoint
        super().__init__(f"{endpoint} {message}")


class AttemptTimedOut(EndpointFailed):
    """No whole answer within the attempt's time, no connection, or the server gave up (408)."""

    outcome = "timeout"


class ConnectionFailed(EndpointFailed):
    """Refused, reset, not found in DNS, or no trust in its certificate."""

    outcome = "connection"


class StatusFailed(EndpointFailed):
    """A status that speaks of the server: 5xx or 429.

    ``status`` and ``headers`` are what ``http_verdicts`` reads.
    """

    outcome = "status"

    def __init__(self, endpoint: str, status: int, headers: Mapping[str, str]) -> None:
        self.status, self.headers = status, dict(headers)
        super().__init__(endpoint, f"answers with status {status}")


class WrongAnswer(EndpointFailed):
    """Half an answer, no JSON, or JSON that is no prediction for what was asked."""

    outcome = "wrong_answer"


class PoolExhausted(EndpointFailed):
    """All connections to the endpoint stayed busy; nothing was sent, so no breaker counts it."""

    outcome = "pool"


class ServiceUnavailable(AIInfraLabError):
    """Nobody answered in time, and no fallback did.

    Parameters
    ----------
    reason : str
        Why the client did not go on.
    causes : mapping of str to AIInfraLabError
        The last thing that each endpoint did, by its URL.
    retry_after : float
        Seconds until the first endpoint may be asked again; 0 where none said.
    """

    def __init__(
        self, reason: str, causes: Mapping[str, AIInfraLabError], retry_after: float
    ) -> None:
        self.reason, self.causes, self.retry_after = reason, dict(causes), retry_after
        what = "; ".join(error.message for error in self.causes.values())
        super().__init__(
            f"no model server answered ({reason}){': ' + what if what else ''}",
            fix=f"Retry in {retry_after:.3g} s." if retry_after > 0 else None,
        )


def _short(words: str) -> str:
    return words if len(words) <= _SHOWN else f"{words[: _SHOWN - 1]}…"
