"""S3: the server that ``AIINFRA_S3_URL`` names, else an embedded one."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator

from aiinfra_lab.engines.s3_client import S3Access, check_configured
from aiinfra_lab.engines.s3_server import S3Server
from aiinfra_lab.settings import settings


@contextlib.contextmanager
def open_s3() -> Iterator[S3Access]:
    """The access to the configured server if there is one, else to an embedded one for the block.

    Raises
    ------
    InputError
        ``AIINFRA_S3_URL`` is no address of such a server, or its key is refused.
    MissingNeed
        The configured server does not answer, or there is no program for an embedded one.
    """
    if url := settings().s3_url:
        yield check_configured(url)
    else:
        with S3Server() as server:
            yield server.access


@contextlib.asynccontextmanager
async def open_s3_async() -> AsyncIterator[S3Access]:
    """As ``open_s3``, without blocking the event loop."""
    import asyncio

    if url := settings().s3_url:
        yield await asyncio.to_thread(check_configured, url)
    else:
        async with S3Server() as server:
            yield server.access
