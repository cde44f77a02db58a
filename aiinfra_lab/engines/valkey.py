"""Valkey: the Redis or Valkey server that ``AIINFRA_VALKEY_URL`` names, else an embedded one.

There is no imitation as a last resort: fakeredis over TCP knows no scripts and no INFO, and a
reply of several MB to a slow reader breaks off in the middle, now and then passing for a whole
one. Without any server program the start says what to install.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator

from aiinfra_lab.engines.valkey_client import check_configured
from aiinfra_lab.engines.valkey_server import ValkeyServer
from aiinfra_lab.settings import settings


@contextlib.contextmanager
def open_valkey() -> Iterator[str]:
    """The URL of the configured server if there is one, else of an embedded one for the block.

    Raises
    ------
    InputError
        ``AIINFRA_VALKEY_URL`` is no address of such a server, or its password is refused.
    MissingNeed
        The configured server does not answer, or there is no program for an embedded one.
    """
    if url := settings().valkey_url:
        check_configured(url)
        yield url
    else:
        with ValkeyServer() as server:
            yield server.url


@contextlib.asynccontextmanager
async def open_valkey_async() -> AsyncIterator[str]:
    """As ``open_valkey``, without blocking the event loop."""
    import asyncio

    if url := settings().valkey_url:
        await asyncio.to_thread(check_configured, url)
        yield url
    else:
        async with ValkeyServer() as server:
            yield server.url
