"""The learner's folder: labs are copied into it, worked on, reset and handed in.

labs/ stays as it was released; whatever a learner does happens in work/.
"""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

from aiinfra_lab.clock import Clock, SystemClock
from aiinfra_lab.course.layout import Course
from aiinfra_lab.course.metadata import KEY
from aiinfra_lab.course.notebooks import read_notebook, stripped, write_notebook
from aiinfra_lab.errors import InputError
from aiinfra_lab.files import write_bytes


def worked(course: Course, identifier: str) -> Path:
    """The learner's copy of a lab.

    Raises
    ------
    InputError
        There is no such lab, or it was not started.
    """
    path = course.work / course.notebook(course.labs, identifier).name
    if not path.is_file():
        number = path.stem.partition("_")[0]
        raise InputError(f"lab {number} was not started", fix=f"Run: aiinfra start {number}")
    return path


def start(course: Course, identifier: str) -> tuple[Path, bool]:
    """Copy a lab into work/; the path, and whether it is new. A started lab is left alone."""
    lab = course.notebook(course.labs, identifier)
    path = course.work / lab.name
    if path.exists():
        return path, False
    write_bytes(path, lab.read_bytes())
    return path, True


def reset(course: Course, identifier: str, clock: Clock | None = None) -> tuple[Path, Path]:
    """Restore a lab; the path, and where the learner's version was put aside."""
    path = worked(course, identifier)
    moment: datetime = (clock or SystemClock()).now()
    backup = _free(course.work / "backup" / f"{path.stem}.{moment:%Y%m%d-%H%M%S}.ipynb")
    backup.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, backup)
    write_bytes(path, course.notebook(course.labs, identifier).read_bytes())
    return path, backup


def _free(path: Path) -> Path:
    candidate, count = path, 1
    while candidate.exists():
        count += 1
        candidate = path.with_name(f"{path.stem}-{count}{path.suffix}")
    return candidate


def submit(course: Course, identifier: str, to: Path | None = None) -> Path:
    """Write the file to hand in: the learner's cells without outputs, and the release's digest.

    Parameters
    ----------
    to : Path, optional
        A file or an existing folder; work/submitted where absent.
    """
    path = worked(course, identifier)
    notebook = stripped(read_notebook(path, strict=False))
    lab = read_notebook(course.notebook(course.labs, identifier))
    notebook["metadata"].setdefault(KEY, lab["metadata"][KEY])
    target = to or course.work / "submitted"
    if to is None or target.is_dir():
        target = target / path.name
    if target.resolve() == path.resolve():
        raise InputError(f"{target} is the notebook you work in", fix="Name another file.")
    write_notebook(target, notebook)
    return target
