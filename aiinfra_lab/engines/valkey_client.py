"""Clients of a Redis or Valkey server that fail in time, and addresses without their secrets.

redis-py by itself waits 5 s for each answer, and whether it tries again depends on how the client
was made: 10 times from a host, never from a URL. A retry inside turns a server that hangs into a
minute, and hides ten failures from what counts them. Here both are fixed: a call fails within
its deadline, once; who wants a retry puts it around the call.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from aiinfra_lab.errors import InputError, MissingNeed

if TYPE_CHECKING:
    import redis
    import redis.asyncio

    Client = TypeVar("Client", redis.Redis, redis.asyncio.Redis)

SCHEMES = ("redis", "rediss", "unix")
CHECK_S = 2.0  # seconds that a configured server has for each answer


def connect_valkey(
    url: str, *, timeout: float = 1.0, decode_responses: bool = False
) -> redis.Redis:
    """A client with deadlines and without retries; it connects at its first command.

    Parameters
    ----------
    url : str
        ``redis://``, ``rediss://`` (TLS) or ``unix://``. Options in its query win over the
        parameters here, as redis-py has it.
    timeout : float
        Seconds for the connection, and again for each answer on it. A call that has to connect
        first waits for several answers. Resolving a name is not counted.
    decode_responses : bool
        Whether answers are ``str`` (UTF-8); by default they are ``bytes``, so that any value
        can be read.

    Raises
    ------
    InputError
        The URL or the timeout cannot be used.

    Notes
    -----
    A command is sent at most once: a lost answer does not tell whether it was carried out. So
    after a restart of the server each pooled connection of the asyncio client fails one call
    (the other client sees the closed connection first). Where commands may be repeated,
    ``client.set_retry(...)`` hides that.
    """
    import redis
    import redis.retry

    return _client(redis.Redis, redis.retry.Retry, url, timeout, decode_responses)


def connect_valkey_async(
    url: str, *, timeout: float = 1.0, decode_responses: bool = False
) -> redis.asyncio.Redis:
    """As ``connect_valkey``, for asyncio; end it by ``await client.aclose()`` or ``async with``."""
    import redis.asyncio
    import redis.asyncio.retry

    return _client(redis.asyncio.Redis, redis.asyncio.retry.Retry, url, timeout, decode_responses)


def _client(kind: type[Client], retry: Any, url: str, timeout: float, decode: bool) -> Client:
    from redis.backoff import NoBackoff

    shown = public_url(url)
    if not (0 < timeout < math.inf):
        raise InputError(f"the timeout is {timeout} seconds", needed="a positive number")
    try:
        client = kind.from_url(
            url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            decode_responses=decode,
            retry=retry(NoBackoff(), 0),
        )
        # An option that redis-py does not know would only be found at the first command.
        client.connection_pool.connection_class(**client.connection_pool.connection_kwargs)
    except (TypeError, ValueError):
        raise InputError(
            f"the address {shown} has an option that the client cannot use",
            needed="options of redis-py, like ?socket_timeout=2",
        ) from None
    return client


def public_url(url: str) -> str:
    """``url`` without user, password and options, fit for logs and errors.

    Raises
    ------
    InputError
        It is no address of a Redis or Valkey server.
    """
    usual = "redis://HOST:PORT/DATABASE, rediss:// for TLS, or unix:///PATH"
    # What cannot be understood is not shown: no one knows which part of it is the password.
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise InputError("the address of a Valkey server cannot be read", needed=usual) from None
    if parts.scheme not in SCHEMES:
        raise InputError(
            "the address of a Valkey server has a scheme that is none of its own", needed=usual
        )
    if parts.scheme == "unix":
        if len(parts.path) < 2:
            raise InputError("the address of a Valkey server names no socket", needed=usual)
        return f"unix://{parts.path}"
    database = parts.path.strip("/")
    if not host or (database and not (database.isascii() and database.isdigit())):
        raise InputError(
            "the address of a Valkey server has no host, or a database that is no number",
            needed=usual,
        )
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}:{port or 6379}/{database or 0}"


def check_configured(url: str) -> None:
    """Return if the server of ``AIINFRA_VALKEY_URL``, which is ``url``, answers.

    Raises
    ------
    InputError
        It is no address of such a server, or the server refuses its user or password.
    MissingNeed
        Nothing answers there in time, or something else than Redis or Valkey.
    """
    from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

    try:
        shown = public_url(url)
        client = connect_valkey(url, timeout=CHECK_S)
    except InputError as error:
        raise InputError(f"AIINFRA_VALKEY_URL: {error.message}", needed=error.needed) from None
    with client:
        try:
            client.ping()
        except (AuthenticationError, NoPermissionError):
            raise InputError(
                f"AIINFRA_VALKEY_URL: the server at {shown} refuses the user or the password",
                fix="Put them into the address: redis://USER:PASSWORD@HOST:PORT/0",
            ) from None
        except (RedisError, OSError) as error:
            # The client's own words are left out: some repeat what the server said.
            reason = type(error).__name__
            raise MissingNeed(
                f"AIINFRA_VALKEY_URL: no Redis or Valkey server answers at {shown} ({reason})",
                fix="Start it, or unset AIINFRA_VALKEY_URL for the embedded one.",
            ) from None
