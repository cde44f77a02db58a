"""One pinned file from the network: resumed after a cut, checked, and whole or absent.

The bytes go to ``<name>.part``. A cut connection is tried again from where it broke, in this call
and in the next one; what turns out to be wrong is removed, because resuming it would never help.
"""

from __future__ import annotations

import hashlib
import http.client
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

from aiinfra_lab.errors import AIInfraLabError
from aiinfra_lab.files import atomic_writer
from aiinfra_lab.kube.pins import Artifact

TRIES = 4
PAUSE_S = 1.0  # before the second try; doubled before each further one
TIMEOUT_S = 30.0  # for a connection, and between two pieces
LARGEST = 1 << 30  # bytes; the largest program has 105 MB
_PIECE = 1 << 18

Report = Callable[[int, int | None], None]


class DownloadError(AIInfraLabError):
    """A file could not be fetched, or is not the pinned one; nothing of it was installed."""


class Unreachable(DownloadError):
    """There is no way to the server, or it broke off again and again; the part is kept."""


def download(artifact: Artifact, target: Path, report: Report = lambda done, total: None) -> None:
    """Fetch ``artifact`` and leave its program, executable, at ``target``.

    Parameters
    ----------
    artifact : Artifact
        Address, digest, and the member to take where it is an archive.
    target : Path
        Appears only when everything is right.
    report : callable
        Called with the bytes that are here and the bytes in all (None: the server does not say).

    Raises
    ------
    DownloadError
        The server refuses, or the digest is another one; the part is removed.
    Unreachable
        The connection failed ``TRIES`` times.
    """
    part = target.with_name(f".{artifact.url.rpartition('/')[2]}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    pause = PAUSE_S
    for attempt in range(1, TRIES + 1):
        try:
            _fetch(artifact.url, part, report)
            break
        except _Broken as error:
            if attempt == TRIES:
                raise Unreachable(
                    f"{artifact.program} could not be fetched from {artifact.url}", found=str(error)
                ) from None
            time.sleep(pause)
            pause *= 2
    found = _digest(part)
    if found != artifact.sha256:
        part.unlink()
        raise DownloadError(
            f"{artifact.url} is not the pinned file",
            needed=f"sha256:{artifact.sha256}",
            found=f"sha256:{found}",
            fix="Nothing was installed; if this repeats, somebody changes the bytes on the way.",
        )
    try:
        _place(part, artifact.member, target)
    finally:
        part.unlink(missing_ok=True)


class _Broken(Exception):
    """The connection ended early, was refused, or the server has a passing fault."""


def _fetch(url: str, part: Path, report: Report) -> None:
    """Bring ``part`` to the length that the server states."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            resumed = answer.status == 206 and _begins_at(answer, have)
            if answer.status not in (200, 206) or (answer.status == 206 and not resumed):
                part.unlink(missing_ok=True)
                raise _Broken(f"an answer {answer.status} that does not fit the question")
            begin = have if resumed else 0
            length = answer.headers.get("Content-Length")
            total = begin + int(length) if length is not None else None
            if (total or 0) > LARGEST:
                part.unlink(missing_ok=True)
                raise DownloadError(f"{url} has {total} bytes", needed=f"at most {LARGEST}")
            done = _copy(answer, part, begin, total, report)
            if total is not None and done < total:
                raise _Broken(f"{done} of {total} bytes")
    except urllib.error.HTTPError as error:
        _refused(error, url, part)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        words = getattr(reason, "strerror", None) or str(reason) or type(error).__name__
        raise _Broken(words) from None


def _refused(error: urllib.error.HTTPError, url: str, part: Path) -> None:
    """Return where the part is already whole; else raise what the status means."""
    with error:
        if error.code == 416:  # nothing beyond what we have: whole, or longer than the file
            length = error.headers.get("Content-Range", "").rpartition("/")[2]
            if length == str(part.stat().st_size):
                return
            part.unlink(missing_ok=True)
            raise _Broken("a part that is longer than the file") from None
        if error.code in (408, 429) or error.code >= 500:
            raise _Broken(f"status {error.code}") from None
        part.unlink(missing_ok=True)
        raise DownloadError(f"{url} cannot be fetched", found=f"status {error.code}") from None


def _begins_at(answer: http.client.HTTPResponse, have: int) -> bool:
    return (answer.headers.get("Content-Range") or "").startswith(f"bytes {have}-")


def _copy(
    answer: http.client.HTTPResponse, part: Path, begin: int, total: int | None, report: Report
) -> int:
    done = begin
    with part.open("ab" if begin else "wb") as file:
        while piece := answer.read(_PIECE):
            file.write(piece)
            done += len(piece)
            if done > LARGEST:
                break
            report(done, total)
    return done


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _place(part: Path, member: str | None, target: Path) -> None:
    """Write the program in ``part`` to ``target``, executable; the digest was right."""
    with atomic_writer(target, mode=0o755) as out:
        if member is None:
            with part.open("rb") as file:
                shutil.copyfileobj(file, out, _PIECE)
        elif zipfile.is_zipfile(part):
            with zipfile.ZipFile(part) as zipped, zipped.open(member) as entry:
                shutil.copyfileobj(entry, out, _PIECE)
        else:
            with tarfile.open(part) as archive:
                inner = archive.extractfile(member)
                if inner is None:
                    raise DownloadError(f"{member} in {part.name} is no file")
                shutil.copyfileobj(inner, out, _PIECE)
