"""Files that are whole or absent: atomic writes, and digests that say which bytes they hold."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def atomic_writer(path: str | Path, *, mode: int | None = None) -> Iterator[BinaryIO]:
    """Open a file that appears under ``path`` only when the block ends without an error.

    The bytes are forced to the disk before the rename (else a crash may leave an empty file
    under the final name), and an old file keeps its permissions unless ``mode`` gives others.
    With ``mode=0o600`` the bytes are at no time readable by anyone else.

    Examples
    --------
    >>> with atomic_writer("model.bin") as file:  # doctest: +SKIP
    ...     file.write(weights)
    """
    # Through a link, the file that it names is replaced, not the link.
    target = Path(path).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(
        dir=target.parent, prefix=f".{target.name[:40]}.", suffix=".part"
    )
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part = Path(name)
        part.chmod(_mode_for(target) if mode is None else mode)
        part.replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _mode_for(target: Path) -> int:
    try:
        return target.stat().st_mode & 0o7777
    except FileNotFoundError:
        # The process's umask can be read only by setting it.
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


def write_bytes(path: str | Path, data: bytes | memoryview, *, mode: int | None = None) -> None:
    """Write ``data`` to ``path`` atomically, with the permissions ``mode`` if given."""
    with atomic_writer(path, mode=mode) as file:
        file.write(data)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, in UTF-8 with the line ends it has."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON with a final newline, atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def digest_bytes(data: bytes | memoryview) -> str:
    """SHA-256 of ``data`` as ``sha256:<hex>``."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def digest_file(path: str | Path) -> str:
    """SHA-256 of the file's bytes as ``sha256:<hex>``, read in pieces."""
    with Path(path).open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def digest_tree(root: str | Path) -> str:
    """SHA-256 over the names and contents of every file under ``root``, in a fixed order.

    Raises
    ------
    NotADirectoryError
        ``root`` is no folder; it must not pass for an empty one.
    """
    base = Path(root)
    if not base.is_dir():
        raise NotADirectoryError(f"{base} is not a folder")
    total = hashlib.sha256()
    for path in sorted(p for p in base.rglob("*") if p.is_file()):
        # fsencode: a name may hold bytes that are no UTF-8.
        total.update(os.fsencode(path.relative_to(base).as_posix()))
        total.update(f"\0{digest_file(path)}\n".encode())
    return f"sha256:{total.hexdigest()}"
