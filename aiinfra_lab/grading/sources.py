"""Where submissions come from: a folder or an LMS's zip, read with distrust.

Nothing is unpacked and no link is followed. What is wrong with one file is that file's problem,
in words, and the others are read all the same; only a zip that cannot be read at all is refused.
"""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Protocol

from aiinfra_lab.errors import InputError

# A notebook with 200 MB of outputs is a learner's accident and is still read (its outputs are
# dropped before it is parsed); more than this would not fit into the grader's memory.
MOST_BYTES = 256 * 2**20
# An LMS's zip of a thousand learners with a hundred files each.
MOST_FILES = 100_000
# What all notebooks of a zip may unpack to.
MOST_TOTAL = 16 * 2**30
# DEFLATE ends at 1030:1. A loop's printed lines reach 200:1, source text 10:1; small files are let
# through whatever their ratio.
MOST_RATIO, RATIO_MATTERS = 500, 2**20


@dataclass(frozen=True)
class Item:
    """One file among the submissions.

    ``path`` is relative to the folder or the zip, with slashes; ``modified`` in seconds since the
    epoch, comparable within one source; ``problem`` says why the file may not be read.
    """

    path: str
    size: int
    modified: float
    problem: str = ""

    @property
    def is_notebook(self) -> bool:
        """Whether its name says so."""
        return self.path.lower().endswith(".ipynb")


class Source(Protocol):
    """A folder or a zip."""

    @property
    def items(self) -> tuple[Item, ...]:
        """The files there, hidden ones left out."""
        ...

    def read(self, item: Item) -> bytes:
        """The file's bytes; ``InputError`` where they cannot be had."""
        ...


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Look through the folder or zip at ``path``.

    Raises
    ------
    InputError
        There is nothing, it is neither, or the zip as a whole cannot be read.
    """
    if path.is_dir():
        yield _Folder(path)
    elif not path.exists():
        raise InputError(f"there is no folder or zip {path}")
    elif not path.is_file() or path.suffix.lower() != ".zip":
        raise InputError(
            f"{path} is neither a folder nor a zip",
            fix="Give the folder with the notebooks, or the LMS's zip as it was downloaded.",
        )
    else:
        try:
            opened = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise InputError(
                f"{path} cannot be read as a zip: {error}", fix="Download it again."
            ) from None
        with opened:
            yield _Zip(path, opened)


class _Folder:
    def __init__(self, root: Path) -> None:
        self._root = root
        try:
            self.items = tuple(self._walk(root))
        except OSError as error:
            raise InputError(f"{error.filename} cannot be read: {error.strerror}") from None

    def _walk(self, folder: Path) -> Iterator[Item]:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = PurePosixPath(os.path.relpath(entry.path, self._root))
                if is_hidden(path):
                    continue
                # Names may hold bytes that are no UTF-8, and results are written in UTF-8.
                name = os.fsencode(str(path)).decode("utf-8", "replace")
                if entry.is_dir(follow_symlinks=False):
                    yield from self._walk(Path(entry.path))
                    continue
                about = entry.stat(follow_symlinks=False)
                item = _Entry(name, about.st_size, about.st_mtime, real=entry.path)
                if entry.is_symlink():
                    yield replace(item, problem="it is a link, and links are not followed")
                elif not stat.S_ISREG(about.st_mode):
                    yield replace(item, problem="it is no regular file")
                else:
                    yield item

    def read(self, item: Item) -> bytes:
        assert isinstance(item, _Entry)
        try:
            # What was a file a moment ago must not have become a link.
            descriptor = os.open(item.real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                return _within(file.read(MOST_BYTES + 1))
        except OSError as error:
            raise InputError(f"it cannot be read: {error.strerror}") from None


@dataclass(frozen=True)
class _Entry(Item):
    real: str = ""


@dataclass(frozen=True)
class _Member(Item):
    info: zipfile.ZipInfo | None = None


class _Zip:
    def __init__(self, path: Path, opened: zipfile.ZipFile) -> None:
        self._zip = opened
        infos = [info for info in opened.infolist() if not info.is_dir()]
        if len(infos) > MOST_FILES:
            raise InputError(f"{path} holds {len(infos)} files; at most {MOST_FILES} are read")
        if infos and all(info.flag_bits & 1 for info in infos):
            raise InputError(f"{path} is encrypted", fix="Unpack it, and give the folder.")
        items = [
            item for info in infos if not is_hidden(PurePosixPath((item := _member(info)).path))
        ]
        total = sum(item.size for item in items if item.is_notebook and not item.problem)
        if total > MOST_TOTAL:
            raise InputError(f"{path} unpacks to {total / 2**30:.0f} GiB; it may be a zip bomb")
        self.items = tuple(_without_root(items, path.stem))

    def read(self, item: Item) -> bytes:
        assert isinstance(item, _Member)
        assert item.info is not None
        try:
            with self._zip.open(item.info) as file:
                # The size that the zip declares need not be true.
                return _within(file.read(MOST_BYTES + 1))
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise InputError(f"it is damaged in the zip: {error}") from None
        except (NotImplementedError, RuntimeError) as error:
            raise InputError(f"it cannot be unpacked: {error}") from None
        except (OSError, ValueError) as error:
            raise InputError(f"it cannot be read: {error}") from None


def _member(info: zipfile.ZipInfo) -> _Member:
    name = info.filename
    if not info.flag_bits & 0x800:
        # Without the flag for UTF-8, zipfile has read the bytes as cp437; macOS writes UTF-8.
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    name = name.replace("\\", "/")
    try:
        modified = datetime(*info.date_time).timestamp()
    except (ValueError, OverflowError):
        modified = 0.0
    return _Member(name, info.file_size, modified, _member_problem(name, info), info)


def _member_problem(name: str, info: zipfile.ZipInfo) -> str:
    if name.startswith("/") or name[1:3] == ":/" or ".." in name.split("/"):
        return "its path in the zip leads out of it"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "it is a link, and links are not followed"
    if info.flag_bits & 1:
        return "it is encrypted"
    if info.file_size > MOST_BYTES:
        return _too_large()
    if info.file_size > RATIO_MATTERS and info.file_size > MOST_RATIO * info.compress_size:
        return f"it unpacks to {info.file_size / max(info.compress_size, 1):.0f} times its size"
    return ""


def _without_root(items: list[_Member], root: str) -> list[_Member]:
    """The items of a zip that was made of one folder, as seen from this folder."""
    prefix = f"{root}/"
    if items and all(item.path.startswith(prefix) for item in items):
        return [replace(item, path=item.path.removeprefix(prefix)) for item in items]
    return items


def is_hidden(path: PurePosixPath) -> bool:
    """Whether a tool has left this there: ``.ipynb_checkpoints``, ``__MACOSX``, ``.DS_Store``."""
    return any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in path.parts)


def _within(data: bytes) -> bytes:
    if len(data) > MOST_BYTES:
        raise InputError(_too_large())
    return data


def _too_large() -> str:
    return (
        f"it is larger than {MOST_BYTES // 2**20} MiB. "
        "`aiinfra submit` writes a file without outputs"
    )
