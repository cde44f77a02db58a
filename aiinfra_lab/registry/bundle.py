"""A model as a folder: ``model.json`` says what it is and names the digest of every other file.

The manifest's own digest therefore stands for the whole bundle. A bundle appears whole or not at
all, and one whose bytes differ from its manifest is refused. ``format`` says how the files are
read; none of the formats can run code when it is opened, so a pickle is not among them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from aiinfra_lab.errors import InputError
from aiinfra_lab.files import digest_bytes, digest_file, write_bytes, write_text
from aiinfra_lab.registry.manifest import MANIFEST, ModelManifest

_FIX = "Make the bundle again, or name another folder."
_TRIES = 100  # other writers that may come between before we give up


M = TypeVar("M", bound=ModelManifest)


# Read.


def read_manifest(folder: str | Path) -> ModelManifest:
    """The manifest of the bundle in ``folder``, after the digest of every file was checked.

    Raises
    ------
    InputError
        The folder or a file is missing or unreadable, the manifest is malformed, or a file's
        bytes are not those that the manifest names.
    """
    return read_files(folder, ModelManifest)[0]


def read_files(
    folder: str | Path, kind: type[M], wanted: Collection[str] = ()
) -> tuple[M, dict[str, bytes]]:
    """As ``read_manifest``, and the bytes of the files ``wanted``, the same that were digested."""
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"there is no bundle {root}: it is not a folder", fix=_FIX)
    manifest = parse_manifest(_read(root, MANIFEST), root, kind)
    kept = {}
    for name, digest in manifest.files.items():
        if name in wanted:
            kept[name] = _read(root, name)
            found = digest_bytes(kept[name])
        else:
            found = _digest(root, name)
        if found != digest:
            raise damaged(root, name, digest, found)
    return manifest, kept


def parse_manifest(data: bytes, root: Path, kind: type[M]) -> M:
    """The manifest in ``data``, which was read in ``root``; refused with one sentence."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{root / MANIFEST} cannot be used{f': {where}' if where else ''}: {first['msg']}",
            fix=_FIX,
        ) from None


def damaged(root: Path, name: str, needed: str, found: str) -> InputError:
    """The refusal of a bundle whose file ``name`` has other bytes."""
    return InputError(
        f"the bundle {root} is damaged: {name} has other bytes than {MANIFEST} names",
        needed=needed,
        found=found,
        fix=_FIX,
    )


def _read(root: Path, name: str) -> bytes:
    try:
        return (root / name).read_bytes()
    except OSError as error:
        raise _unreadable(root, name, error) from None


def _digest(root: Path, name: str) -> str:
    try:
        return digest_file(root / name)
    except OSError as error:
        raise _unreadable(root, name, error) from None


def _unreadable(root: Path, name: str, error: OSError) -> InputError:
    return InputError(f"the bundle {root} has no readable {name}: {error.strerror}", fix=_FIX)


# Write.


def write_files(
    folder: str | Path, manifest: ModelManifest, files: Mapping[str, bytes | Path]
) -> Path:
    """Write a bundle that appears under ``folder`` whole or not at all.

    ``manifest.files`` is replaced by the digests of ``files`` (bytes, or the path of a file to
    be copied). When several processes write the same folder at once, one of them wins and the
    others' work is dropped; a bundle that is already there and whole is kept.

    Returns
    -------
    Path
        ``folder``, with a bundle that passes ``read_manifest``.

    Raises
    ------
    InputError
        ``folder`` is there and holds something else than a bundle, or a file cannot be read.
    """
    target = Path(folder)
    with _part_beside(target) as part:
        digests = {}
        for name, source in files.items():
            if isinstance(source, bytes):
                write_bytes(part / name, source)
            else:
                _copy(source, part / name)
            digests[name] = digest_file(part / name)
        whole = type(manifest).model_validate(manifest.model_dump() | {"files": digests})
        write_text(part / MANIFEST, whole.model_dump_json(indent=1, exclude_none=True) + "\n")
        move(part, target, type(manifest))
    return target


def copy_bundle(source: str | Path, target: Path, digest: str | None = None) -> ModelManifest:
    """Copy the bundle ``source`` to ``target``, whole or not at all; what is copied is checked.

    Parameters
    ----------
    digest : str, optional
        What ``bundle_digest`` must say of it.
    """
    root = Path(source)
    if not root.is_dir():
        raise InputError(f"there is no bundle {root}: it is not a folder", fix=_FIX)
    data = _read(root, MANIFEST)
    if digest is not None and (found := digest_bytes(data)) != digest:
        raise damaged(root, MANIFEST, digest, found)
    manifest = parse_manifest(data, root, ModelManifest)
    with _part_beside(target) as part:
        for name, needed in manifest.files.items():
            _copy(root / name, part / name)
            if (found := digest_file(part / name)) != needed:
                raise damaged(root, name, needed, found)
        write_bytes(part / MANIFEST, data)
        move(part, target, ModelManifest)
    return manifest


def bundle_digest(folder: str | Path) -> str:
    """The digest of the manifest, which names the digests of all other files."""
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"there is no bundle {root}: it is not a folder", fix=_FIX)
    return _digest(root, MANIFEST)


@contextmanager
def _part_beside(target: Path) -> Iterator[Path]:
    """A new folder beside ``target``, of which nothing is left afterwards."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        name = tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name[:40]}.", suffix=".part")
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror}") from None
    part = Path(name)
    try:
        part.chmod(0o755)
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        if not target.exists() or not source.is_file():
            raise _unreadable(source.parent, source.name, error) from None
        raise InputError(f"{target.parent} cannot be written: {error.strerror}") from None


def move(part: Path, target: Path, kind: type[ModelManifest]) -> None:
    """Rename ``part`` to ``target``, unless a whole bundle stands there by then."""
    for _ in range(_TRIES):
        try:
            part.rename(target)  # also over an empty folder
            return
        except OSError:
            if not target.is_dir():
                raise InputError(f"{target} is in the way: it is not a folder") from None
        try:
            read_files(target, kind)
            return
        except InputError:
            _set_aside(target, {entry.name for entry in part.iterdir()})
    raise InputError(f"{target} changes while it is written", fix="Write to a folder of its own.")


def _set_aside(target: Path, own: set[str]) -> None:
    """Remove a damaged bundle, in one step for whoever looks at the same time."""
    try:
        strangers = {entry.name for entry in target.iterdir()} - own - {MANIFEST}
        if strangers:
            raise InputError(f"{target} holds something else than a bundle", found=min(strangers))
        aside = target.with_name(f".{target.name[:40]}.{os.urandom(4).hex()}.part")
        target.rename(aside)
    except FileNotFoundError:
        return
    shutil.rmtree(aside, ignore_errors=True)
