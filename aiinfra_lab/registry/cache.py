"""Bundles on this machine by their digest: what is there is whole, or is made whole again."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from aiinfra_lab.errors import InputError
from aiinfra_lab.registry.bundle import bundle_digest, copy_bundle, read_manifest
from aiinfra_lab.registry.manifest import ModelManifest


class BundleCache:
    """The bundles below ``root``, one folder for each digest of a manifest."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def folder(self, digest: str) -> Path:
        """Where the bundle with ``digest`` lies, or will lie."""
        return self._root / digest.removeprefix("sha256:")

    def has(self, digest: str) -> bool:
        """Whether it is there with every byte."""
        folder = self.folder(digest)
        try:
            if bundle_digest(folder) != digest:
                return False
            read_manifest(folder)
        except InputError:
            return False
        return True

    def add(self, source: str | Path, digest: str) -> ModelManifest:
        """Copy the bundle ``source``, which must have ``digest``; a damaged one is replaced.

        Raises
        ------
        InputError
            ``source`` is damaged or has another digest, or the cache cannot be written.
        """
        folder = self.folder(digest)
        if folder.exists() and not self.has(digest):
            shutil.rmtree(folder, ignore_errors=True)
        return copy_bundle(source, folder, digest)

    @contextlib.contextmanager
    def part(self) -> Iterator[Path]:
        """A folder for a download, on the same disk; nothing of it is left."""
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            name = tempfile.mkdtemp(dir=self._root, prefix=".", suffix=".part")
        except OSError as error:
            raise InputError(
                f"{self._root} cannot be written: {error.strerror}",
                fix="Set AIINFRA_CACHE to a folder that you may write to.",
            ) from None
        try:
            yield Path(name)
        finally:
            shutil.rmtree(name, ignore_errors=True)
