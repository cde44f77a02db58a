"""Access to an S3: where it is, with which key, and a client that fails in time.

boto3 by itself waits 60 s for a connection and 60 s for an answer, five times over. Here a call
fails within its deadline, once; who wants a retry puts it around the call.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from aiinfra_lab.errors import InputError, MissingNeed

CHECK_S = 3.0  # seconds that a configured server has for each answer
_USUAL = "http://HOST:PORT or https://HOST, with KEY:SECRET@ before the host if it needs one"
_REFUSED = {
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
}


@dataclass(frozen=True)
class S3Access:
    """What a client of an S3 needs to know; ``str()`` and ``repr()`` show no secret.

    Attributes
    ----------
    url : str
        Without user and password.
    access_key, secret_key : str or None
        None: boto3's own chain (environment, profile, instance).
    region : str
    """

    url: str
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    region: str = "us-east-1"

    def __str__(self) -> str:
        return self.url

    @contextlib.contextmanager
    def client(self, *, timeout: float = 10.0) -> Iterator[Any]:
        """A boto3 client with deadlines and without retries, closed at the end of the block.

        Parameters
        ----------
        timeout : float
            Seconds for the connection, and again for each piece of an answer.

        Raises
        ------
        InputError
            The timeout cannot be used.
        """
        if not (0 < timeout < math.inf):
            raise InputError(f"the timeout is {timeout} seconds", needed="a positive number")
        import boto3  # type: ignore[import-untyped]
        from botocore.config import Config  # type: ignore[import-untyped]

        config = Config(
            connect_timeout=timeout,
            read_timeout=timeout,
            retries={"total_max_attempts": 1},
            # A server on an address has no names for its buckets.
            s3={"addressing_style": "path"},
            proxies={},
        )
        # A session of its own: boto3's default one is shared and not safe between threads.
        client = boto3.session.Session().client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=config,
        )
        try:
            yield client
        finally:
            client.close()

    def environment(self) -> dict[str, str]:
        """The variables by which boto3 and MLflow in a child process find this S3."""
        found = {
            "AWS_ENDPOINT_URL_S3": self.url,
            "MLFLOW_S3_ENDPOINT_URL": self.url,
            "AWS_DEFAULT_REGION": self.region,
        }
        if self.access_key and self.secret_key:
            found["AWS_ACCESS_KEY_ID"] = self.access_key
            found["AWS_SECRET_ACCESS_KEY"] = self.secret_key
        return found


def parse_access(url: str) -> S3Access:
    """The access that an address like ``https://KEY:SECRET@HOST:PORT`` gives.

    The region is that of ``AWS_DEFAULT_REGION`` or ``AWS_REGION``, else us-east-1.

    Raises
    ------
    InputError
        It is no such address; nothing of it is repeated, since it may be a secret.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise InputError("the address of an S3 server cannot be read", needed=_USUAL) from None
    if parts.scheme not in ("http", "https") or not host:
        raise InputError("the address of an S3 server has no scheme or no host", needed=_USUAL)
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise InputError(
            "the address of an S3 server ends with its port: a bucket is no part of it",
            needed=_USUAL,
        )
    if bool(parts.username) != bool(parts.password):
        raise InputError("the address of an S3 server has half a key", needed=_USUAL)
    name = f"[{host}]" if ":" in host else host
    return S3Access(
        url=f"{parts.scheme}://{name}{f':{port}' if port else ''}",
        access_key=unquote(parts.username) if parts.username else None,
        secret_key=unquote(parts.password) if parts.password else None,
        region=os.environ.get("AWS_DEFAULT_REGION") or os.environ.get("AWS_REGION") or "us-east-1",
    )


def check_configured(url: str) -> S3Access:
    """The access to the server of ``AIINFRA_S3_URL``, which is ``url``, if it answers.

    Raises
    ------
    InputError
        It is no address of such a server, or the server refuses the key.
    MissingNeed
        Nothing answers there in time, or something else than an S3.
    """
    from botocore.exceptions import (  # type: ignore[import-untyped]
        BotoCoreError,
        ClientError,
        NoCredentialsError,
        PartialCredentialsError,
    )

    try:
        access = parse_access(url)
    except InputError as error:
        raise InputError(f"AIINFRA_S3_URL: {error.message}", needed=error.needed) from None
    with access.client(timeout=CHECK_S) as client:
        try:
            client.list_buckets()
        except (NoCredentialsError, PartialCredentialsError):
            raise InputError(
                f"AIINFRA_S3_URL: there is no key for {access}",
                fix="Put it into the address, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
            ) from None
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code == "AccessDenied":
                return access  # a key that may not list all buckets may still use its own
            if code in _REFUSED:
                raise InputError(
                    f"AIINFRA_S3_URL: the server at {access} refuses the key ({code})"
                ) from None
            raise _silent(access, code) from None
        except (BotoCoreError, OSError, ValueError) as error:
            raise _silent(access, type(error).__name__) from None
    return access


def _silent(access: S3Access, reason: str) -> MissingNeed:
    return MissingNeed(
        f"AIINFRA_S3_URL: no S3 server answers at {access} ({reason})",
        fix="Start it, or unset AIINFRA_S3_URL for the embedded one.",
    )
