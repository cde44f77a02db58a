"""A runtime's folder: its socket, and that it is one runtime's at a time."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiinfra_lab.errors import InputError
from aiinfra_lab.kube.runtime.place import hold, listen, socket_of


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files with a short name, as systems have it."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_socket_lies_in_the_folder() -> None:
    assert socket_of(Path("/a/b")) == Path("/a/b/runtime.sock")


def test_long_folder_has_a_short_socket_of_its_own(temporary: Path) -> None:
    paths = {socket_of(Path("/long" * 30, name)) for name in ("a", "b")}
    assert len(paths) == 2
    for path in paths:
        assert path.is_relative_to(temporary)
        assert len(os.fsencode(path)) <= 100


def test_two_spellings_of_a_folder_are_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert socket_of(tmp_path / "link") == socket_of(tmp_path / "real/../real")


def test_held_folder_is_refused_to_another_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from aiinfra_lab.errors import InputError;"
        "from aiinfra_lab.kube.runtime.place import hold\n"
        "try: hold(Path(sys.argv[1])); print('held')\n"
        "except InputError as error: print(error)"
    )

    def other() -> str:
        command = [sys.executable, "-c", code, str(tmp_path / "rt")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    fd = hold(tmp_path / "rt")
    # A fork has the descriptor too; the lock must not live on in it.
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    try:
        assert "already works in" in other()
        os.close(fd)
        assert other() == "held\n"
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def test_folder_becomes_private(tmp_path: Path) -> None:
    (tmp_path / "rt").mkdir(mode=0o755)
    os.close(hold(tmp_path / "rt"))
    assert stat.S_IMODE((tmp_path / "rt").stat().st_mode) == 0o700


def test_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be used"):
        hold(tmp_path / "file")


@pytest.mark.parametrize("deep", [False, True])
def test_stale_socket_is_replaced_and_private(tmp_path: Path, temporary: Path, deep: bool) -> None:
    folder = tmp_path / ("long" * 30 if deep else "rt")
    folder.mkdir()
    with listen(folder):  # closed without being unlinked, as a killed one leaves it
        pass
    assert socket_of(folder).exists()
    with listen(folder), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(socket_of(folder)))
        assert stat.S_IMODE(socket_of(folder).stat().st_mode) == 0o600
        assert stat.S_IMODE(socket_of(folder).parent.stat().st_mode) in (0o700, 0o755)
    if deep:
        assert stat.S_IMODE(socket_of(folder).parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("kind", ["open", "link"])
def test_folder_that_others_could_change_holds_no_socket(
    tmp_path: Path, temporary: Path, kind: str
) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    parent = socket_of(folder).parent
    if kind == "open":
        parent.mkdir()
        parent.chmod(0o777)
    else:
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="open to others"):
        listen(folder)
