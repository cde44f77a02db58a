"""Models that wait for a registry that was away: one folder each, with its order and its bundle."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ValidationError

from aiinfra_lab.errors import InputError
from aiinfra_lab.files import write_text
from aiinfra_lab.registry.bundle import copy_bundle

ORDER, BUNDLE = "order.json", "bundle"


class Order(BaseModel, frozen=True, extra="forbid"):
    """What is to be registered: everything but the files."""

    name: str
    key: str
    digest: str
    run_id: str | None = None
    metrics: dict[str, float] = {}
    lineage: dict[str, str] = {}
    tags: dict[str, str] = {}


class Outbox:
    """The waiting models in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, order: Order, bundle: Path) -> Path:
        """Keep a copy of ``bundle`` and its order, whole or not at all; again is once.

        Raises
        ------
        InputError
            Another bundle waits under the same key, or the folder cannot be written.
        """
        place = self.folder / _place(order)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(dir=self.folder, prefix=".", suffix=".part"))
        except OSError as error:
            raise InputError(
                f"{self.folder} cannot be written, so the model is not kept: {error.strerror}"
            ) from None
        try:
            copy_bundle(bundle, part / BUNDLE, order.digest)
            write_text(part / ORDER, order.model_dump_json(indent=1) + "\n")
            part.rename(place)
        except OSError as error:
            if not place.is_dir():
                raise InputError(f"{place} cannot be written: {error.strerror}") from None
            if (found := self.read(place).digest) != order.digest:
                raise InputError(
                    f"another model waits under the key {order.key!r}",
                    found=found,
                    needed=order.digest,
                    fix="Register it under a key of its own.",
                ) from None
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return place

    def places(self) -> Iterator[Path]:
        """The folders of the waiting models, in a fixed order."""
        if self.folder.is_dir():
            yield from sorted(p for p in self.folder.iterdir() if not p.name.startswith("."))

    def read(self, place: Path) -> Order:
        """The order in ``place``."""
        try:
            return Order.model_validate_json((place / ORDER).read_bytes())
        except (OSError, ValidationError) as error:
            raise InputError(
                f"{place} holds no order of the outbox ({type(error).__name__})",
                fix="Move it away.",
            ) from None

    def remove(self, place: Path) -> None:
        """Forget the model in ``place``."""
        shutil.rmtree(place, ignore_errors=True)


def _place(order: Order) -> str:
    return hashlib.sha256(f"{order.name}\0{order.key}".encode()).hexdigest()[:24]
