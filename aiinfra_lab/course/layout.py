"""Where the course lies on this disk: its chapters, labs, masters and the learner's work.

Nothing else lists the chapters: they are what their notebooks' metadata say. Reading it takes a
JSON parser, not nbformat, so that the command line stays quick.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from aiinfra_lab.errors import InputError

FIRST_CHAPTER = "00_start_here.ipynb"
RELEASE_FILE = "RELEASE.json"


@dataclass(frozen=True)
class Course:
    """A checkout or a release of the course, by its root folder."""

    root: Path

    @classmethod
    def find(cls, start: Path | None = None) -> Course:
        """The course around ``start`` (the working folder), else the one this package lies in.

        ``AIINFRA_COURSE`` names another.
        """
        # Imported here: pydantic would cost `import show` 0.15 s.
        from aiinfra_lab.settings import settings

        if configured := settings().course:
            return cls(configured)
        here = (start or Path.cwd()).resolve()
        for folder in (here, *here.parents):
            if (folder / "notebooks" / FIRST_CHAPTER).is_file():
                return cls(folder)
        return cls(Path(__file__).resolve().parents[2])

    @property
    def chapters(self) -> Path:
        """The folder of the chapters."""
        return self.root / "notebooks"

    @property
    def masters(self) -> Path:
        """The folder of the lab masters; absent in a release."""
        return self.root / "solutions"

    @property
    def is_release(self) -> bool:
        """Whether this is the learners' course, in which the released labs stand for the masters.

        A folder that a learner calls solutions/ does not make it another.
        """
        return (self.root / RELEASE_FILE).is_file() or not self.masters.is_dir()

    @property
    def labs(self) -> Path:
        """The folder of what learners get."""
        return self.root / "labs"

    @property
    def work(self) -> Path:
        """The folder in which a learner works."""
        return self.root / "work"

    def expected(self, lab: Path) -> Path:
        """The public results of a lab."""
        return self.labs / "expected" / f"{lab.stem}.json"

    def notebook(self, folder: Path, identifier: str) -> Path:
        """The one notebook in ``folder`` that ``identifier`` means: ``03``, ``3`` or its stem.

        Raises
        ------
        InputError
            There is none; the sentence lists what there is.
        """
        wanted = identifier.zfill(2) if identifier.isdigit() else identifier
        names = notebook_names(folder)
        for name in names:
            if wanted in (name, name.partition("_")[0]):
                return folder / f"{name}.ipynb"
        kind = {"notebooks": "chapter"}.get(folder.name, "lab")
        there = ", ".join(name.partition("_")[0] if "_" in name else name for name in names)
        raise InputError(f"there is no {kind} {identifier!r}", fix=f"There is: {there or 'none'}.")

    def public_results(self, exercise: str, seed: int) -> list[Any] | None:
        """The expected records of an exercise under its lab's public seed; None elsewhere."""
        for path in sorted((self.labs / "expected").glob("*.json")):
            results = _read_json(path)
            if results["seed"] == seed and exercise in results["exercises"]:
                return list(results["exercises"][exercise])
        return None

    def results(self, lab: Path) -> dict[str, list[Any]]:
        """The public results of a lab by exercise; none where they were not built yet."""
        path = self.expected(lab)
        return dict(_read_json(path)["exercises"]) if path.is_file() else {}

    def notebooks(self) -> Iterator[Path]:
        """Every notebook that the project keeps: chapters, pages, masters and labs."""
        for folder in (self.chapters, self.masters, self.labs):
            yield from (folder / f"{name}.ipynb" for name in notebook_names(folder))


def notebook_names(folder: Path) -> list[str]:
    """The stems of the notebooks in a folder, in order."""
    return sorted(p.stem for p in folder.glob("*.ipynb") if not p.name.startswith("."))


@cache
def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
