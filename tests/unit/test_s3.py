"""S3 without a server: which addresses are refused, and that no secret is shown."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from aiinfra_lab.engines import S3Server, open_s3, open_s3_async
from aiinfra_lab.engines.s3_client import S3Access, check_configured, parse_access
from aiinfra_lab.errors import InputError, MissingNeed
from aiinfra_lab.settings import settings


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AIINFRA_S3_URL", "AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    settings.cache_clear()
    yield
    settings.cache_clear()


def test_an_address_gives_its_parts() -> None:
    found = parse_access("https://KEY:se%2Fcret@store.example:9000/")
    assert found == S3Access("https://store.example:9000", "KEY", "se/cret", "us-east-1")
    assert parse_access("http://[::1]:9000").url == "http://[::1]:9000"
    assert parse_access("http://host").access_key is None


def test_the_region_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    assert parse_access("http://host").region == "eu-central-1"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert parse_access("http://host").region == "eu-west-1"


def test_no_secret_is_shown() -> None:
    access = parse_access("https://KEY:hushhush@store.example")
    assert "hushhush" not in f"{access} {access!r}"
    assert access.environment()["AWS_SECRET_ACCESS_KEY"] == "hushhush"


@pytest.mark.parametrize(
    "url",
    [
        "hushhush",
        "s3://K:hushhush@bucket",
        "http://K:hushhush@",
        "http://K:hushhush@host:port",
        "http://K:hushhush@host:99999",
        "http://K:hushhush@host/bucket",
        "http://K:hushhush@host?region=x",
        "http://hushhush@host",
        "http://:hushhush@host",
        "http://K:hushhush@[::1",
    ],
)
def test_what_is_no_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InputError, match="address of an S3 server") as refusal:
        parse_access(url)
    assert "hushhush" not in str(refusal.value)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
def test_a_deadline_is_a_positive_number(timeout: float) -> None:
    with (
        pytest.raises(InputError, match="timeout is"),
        S3Access("http://host").client(timeout=timeout),
    ):
        pass


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_out_of_range_is_refused(port: int) -> None:
    with pytest.raises(InputError, match=f"port is {port}.*65535"):
        S3Server(port=port)


@pytest.mark.parametrize("name", ["", "a/b", ".hidden"])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="plain name"):
        S3Server(name=name)


def test_before_the_first_start_there_is_no_port_to_tell() -> None:
    assert S3Server(port=7001).url == "http://127.0.0.1:7001"
    server = S3Server()
    with pytest.raises(RuntimeError, match="not started"):
        _ = server.url
    with pytest.raises(RuntimeError, match="not started"):
        _ = server.child
    server.stop()


@pytest.mark.needs("boto3")
async def test_a_server_that_does_not_answer_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"http://K:hushhush@127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("AIINFRA_S3_URL", url)
        settings.cache_clear()
        wanted = pytest.raises(MissingNeed, match="AIINFRA_S3_URL: no S3 server answers")
        with wanted as refusal, open_s3():
            pass
        assert "hushhush" not in str(refusal.value)
        assert refusal.value.exit_code == 3
        with pytest.raises(MissingNeed):
            async with open_s3_async():
                pass


class Answering:
    """A server that gives the same answer to everything."""

    def __init__(self, status: str, body: str) -> None:
        self._text = (
            f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
        ).encode()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://K:hushhush@127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                if not connection.recv(65536):
                    return
                connection.sendall(self._text)

    def __enter__(self) -> Answering:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        socket.create_connection(self._listener.getsockname()).close()
        self._thread.join()
        self._listener.close()


def refusal(code: str) -> str:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>hushhush</Message></Error>"


@pytest.mark.needs("boto3")
@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"])
def test_a_refused_key_is_the_users_mistake(code: str) -> None:
    wanted = pytest.raises(InputError, match=f"refuses the key .{code}")
    with Answering("403 Forbidden", refusal(code)) as server, wanted as error:
        check_configured(server.url)
    assert "hushhush" not in str(error.value)


@pytest.mark.needs("boto3")
def test_a_key_that_may_not_list_buckets_is_a_key() -> None:
    with Answering("403 Forbidden", refusal("AccessDenied")) as server:
        assert check_configured(server.url).access_key == "K"


@pytest.mark.needs("boto3")
@pytest.mark.parametrize(
    ("status", "body"),
    [("200 OK", "<html>hello"), ("503 Slow", refusal("SlowDown")), ("404 Not Found", "")],
)
def test_what_is_no_s3_is_said(status: str, body: str) -> None:
    with Answering(status, body) as server, pytest.raises(MissingNeed, match="no S3 server"):
        check_configured(server.url)
