"""A model as a folder: ``model.json`` says what it is, ``model.onnx`` is the graph.

Pre-processing lies inside the graph, so a client sends what a camera sends and cannot scale it
in another way than the training did. The manifest carries the digest of every file, and the
bytes that are digested are the bytes that are used: a folder that changes in between is caught.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aiinfra_lab.errors import InputError
from aiinfra_lab.files import digest_bytes, write_bytes, write_text

MANIFEST, GRAPH = "model.json", "model.onnx"
_FIX = "Make the bundle again, or name another folder."


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class InputSpec(_Part):
    """What one instance is: nested lists of ``shape`` whose numbers lie in ``low..high``.

    With ``dtype`` uint8 the numbers are whole. Pixels that somebody has scaled to 0..1 are
    then refused instead of being taken for a nearly black image.
    """

    shape: tuple[int, ...] = Field(min_length=1, max_length=8)
    dtype: Literal["uint8", "float32"]
    low: float
    high: float

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if min(self.shape) < 1:
            raise ValueError("every length in shape must be at least 1")
        if not self.low < self.high:
            raise ValueError("low must lie below high")
        if self.dtype == "uint8" and not (self.low >= 0 and self.high <= 255):
            raise ValueError("uint8 holds 0..255")
        return self

    def __str__(self) -> str:
        kind = "whole numbers" if self.dtype == "uint8" else "numbers"
        return f"{'×'.join(map(str, self.shape))} {kind} in {self.low:g}..{self.high:g}"


class Metric(_Part):
    """A number with what it was measured on: ``n`` instances of the split ``split``."""

    value: float
    n: int = Field(ge=1)
    split: str


class Lineage(_Part):
    """Where the model comes from."""

    data: str
    libraries: dict[str, str]
    seed: int
    recipe: str = ""


class Manifest(_Part):
    """The contents of ``model.json``.

    Attributes
    ----------
    name, version : str
        What answers are signed with.
    files : dict
        File name → ``sha256:<hex>``.
    labels : tuple of str
        In the order of the graph's probabilities.
    """

    # A name is a metric's label and part of file names, so it is a plain word.
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    format: Literal["onnx"] = "onnx"
    files: dict[str, str] = Field(min_length=1)
    input: InputSpec
    labels: tuple[str, ...] = Field(min_length=1)
    metrics: dict[str, Metric] = {}
    lineage: Lineage

    @model_validator(mode="after")
    def _plain_names(self) -> Self:
        for name in self.files:
            if not name or name.startswith(".") or "/" in name or "\\" in name or "\0" in name:
                raise ValueError(f"a file of a bundle has a plain name, found {name!r}")
        if GRAPH not in self.files:
            raise ValueError(f"files must name {GRAPH}")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("labels must differ from each other")
        return self


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read: its folder, its manifest and the bytes of its graph."""

    folder: Path
    manifest: Manifest
    graph: bytes


def read_bundle(folder: str | Path) -> Bundle:
    """Read the bundle in ``folder`` and check the digest of every file.

    Raises
    ------
    InputError
        The folder or a file is missing or unreadable, the manifest is malformed, or a file's
        bytes are not those that the manifest names.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"there is no bundle {root}: it is not a folder", fix=_FIX)
    manifest = _read_manifest(root)
    graph = b""
    for name, wanted in manifest.files.items():
        data = _read(root, name)
        if (found := digest_bytes(data)) != wanted:
            raise InputError(
                f"the bundle {root} is damaged: {name} has other bytes than {MANIFEST} names",
                needed=wanted,
                found=found,
                fix=_FIX,
            )
        if name == GRAPH:
            graph = data
    return Bundle(root, manifest, graph)


def _read_manifest(root: Path) -> Manifest:
    try:
        return Manifest.model_validate_json(_read(root, MANIFEST))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{root / MANIFEST} cannot be used{f': {where}' if where else ''}: {first['msg']}",
            fix=_FIX,
        ) from None


def _read(root: Path, name: str) -> bytes:
    try:
        return (root / name).read_bytes()
    except OSError as error:
        raise InputError(
            f"the bundle {root} has no readable {name}: {error.strerror}", fix=_FIX
        ) from None


def write_bundle(folder: str | Path, manifest: Manifest, graph: bytes) -> Path:
    """Write a bundle that appears under ``folder`` whole or not at all.

    ``manifest.files`` is replaced by the digest of ``graph``. When several processes write the
    same folder at once, one of them wins and the others' work is dropped; a bundle that is
    already there and whole is kept.

    Returns
    -------
    Path
        ``folder``, with a bundle that passes ``read_bundle``.

    Raises
    ------
    InputError
        ``folder`` is there and holds something else than a bundle.
    """
    target = Path(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    whole = manifest.model_copy(update={"files": {GRAPH: digest_bytes(graph)}})
    part = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name[:40]}.", suffix=".part"))
    try:
        part.chmod(0o755)
        write_bytes(part / GRAPH, graph)
        write_text(part / MANIFEST, whole.model_dump_json(indent=1) + "\n")
        _move(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _move(part: Path, target: Path) -> None:
    for _ in range(100):
        try:
            part.rename(target)  # also over an empty folder
            return
        except OSError:
            if not target.is_dir():
                raise InputError(f"{target} is in the way: it is not a folder") from None
        try:
            read_bundle(target)
            return
        except InputError:
            _set_aside(target)
    raise InputError(f"{target} changes while it is written", fix="Write to a folder of its own.")


def _set_aside(target: Path) -> None:
    """Remove a damaged bundle, in one step for whoever looks at the same time."""
    strangers = {entry.name for entry in target.iterdir()} - {MANIFEST, GRAPH}
    if strangers:
        raise InputError(f"{target} holds something else than a bundle", found=min(strangers))
    aside = target.with_name(f".{target.name[:40]}.{os.urandom(4).hex()}.part")
    try:
        target.rename(aside)
    except FileNotFoundError:
        return
    shutil.rmtree(aside, ignore_errors=True)
