"""Private folders: whose they are is known by a lock, and a killed process's are removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from aiinfra_lab.errors import InputError
from aiinfra_lab.sandbox import places
from aiinfra_lab.sandbox.places import LOCK, PrivateFolder, private_folder

HOLD = """
import sys
from aiinfra_lab.sandbox.places import private_folder
folder = private_folder("aiinfra-test-")
open(folder.name + "/content", "w").close()
print(folder.name, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder of its own, in which nothing was swept yet."""
    # pytest's own are too long for a socket.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="p") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        places._sweep.cache_clear()
        yield Path(short)
        places._sweep.cache_clear()


def holder(temporary: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_has_stays(
    temporary: Path,
) -> None:
    with holder(temporary) as dead, holder(temporary) as living:
        assert dead.stdout is not None
        assert living.stdout is not None
        left, kept = (Path(one.stdout.readline().strip()) for one in (dead, living))
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        assert left.is_dir()
        with private_folder("aiinfra-test-") as mine:
            assert {path.name for path in temporary.iterdir()} == {kept.name, Path(mine).name}
            assert (kept / "content").exists()
        living.communicate()
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("lock", [False, True])
def test_a_folder_of_that_name_is_removed_only_if_it_was_made_here(
    temporary: Path, lock: bool
) -> None:
    there = temporary / "aiinfra-test-notes"
    there.mkdir()
    (there / "notes").touch()
    if lock:
        (there / LOCK).touch()
    with private_folder("aiinfra-test-"):
        assert there.exists() != lock


def test_a_link_to_a_folder_is_not_followed(temporary: Path) -> None:
    (temporary / "precious").mkdir()
    (temporary / "precious" / LOCK).touch()
    (temporary / "aiinfra-test-link").symlink_to(temporary / "precious")
    with private_folder("aiinfra-test-"):
        assert (temporary / "precious" / LOCK).exists()


def test_another_users_folder_stays(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = temporary / "aiinfra-test-theirs"
    there.mkdir()
    (there / LOCK).touch()
    monkeypatch.setattr(places.os, "geteuid", lambda: 4_000_000)
    with private_folder("aiinfra-test-"):
        assert there.exists()


def test_a_folder_that_is_swept_before_it_is_locked_is_made_again(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tried = places._lock, []

    def swept_first(file: Path, flags: int = 0) -> int:
        tried.append(file)
        if len(tried) == 1:
            file.parent.rmdir()
        return real(file, flags)

    monkeypatch.setattr(places, "_lock", swept_first)
    with PrivateFolder("aiinfra-test-") as name:
        assert len(tried) == 2
        assert Path(name, LOCK).exists()


def test_a_temporary_folder_with_a_long_path_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with private_folder("aiinfra-test-") as name:
        assert Path(name).parent == Path("/tmp")
    monkeypatch.setattr(places, "_LONGEST", 3)
    with pytest.raises(InputError, match="too long a path"):
        private_folder("aiinfra-test-")
