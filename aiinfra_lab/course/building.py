"""``build``: what is generated in the repository, made again or proved current.

A generator gives the texts of files. The command line registers further ones; here are those of
the notebooks: their normalised form, the labs, and the labs' public results.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from aiinfra_lab.course.checking import Outputs, outputs_of_master, with_own_answers
from aiinfra_lab.course.judgement import differences_in
from aiinfra_lab.course.layout import Course, notebook_names
from aiinfra_lab.course.masters import exercises, public, released
from aiinfra_lab.course.metadata import read_metadata
from aiinfra_lab.course.notebooks import (
    Cell,
    Notebook,
    code_cells,
    dumps,
    normalised,
    read_notebook,
    tags,
)
from aiinfra_lab.course.records import holds_records, records_in
from aiinfra_lab.course.runner import Executor, LocalExecutor
from aiinfra_lab.files import write_text

# The tag of a cell whose output says something about the machine and no other reader.
UNSTORED = "unstored"

Generator = Callable[[Course], Mapping[Path, str]]


def stale(course: Course, generators: Mapping[str, Generator]) -> Iterator[tuple[str, Path, str]]:
    """The files that differ from what is generated: the generator's name, path and new text."""
    for name, generator in generators.items():
        for path, text in generator(course).items():
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                yield name, path, text


def write_stale(course: Course, generators: Mapping[str, Generator]) -> list[Path]:
    """Write every file that differs; the paths written. Later generators see what earlier wrote."""
    written = []
    for name, generator in generators.items():
        for _, path, text in stale(course, {name: generator}):
            write_text(path, text)
            written.append(path)
    return written


def notebooks(course: Course) -> dict[Path, str]:
    """Chapters, pages and masters in their normalised form."""
    paths = [*_paths(course.chapters), *_paths(course.masters)]
    return {path: dumps(committed(read_notebook(path))) for path in paths}


def committed(notebook: Notebook) -> Notebook:
    """The normalised form, without the outputs of cells that describe this machine."""
    result = normalised(notebook)
    for cell in code_cells(result):
        if UNSTORED in tags(cell):
            cell["outputs"] = []
    return result


def labs(course: Course) -> dict[Path, str]:
    """What learners get, from the masters."""
    return {
        course.labs / path.name: dumps(normalised(released(read_notebook(path), path.name)))
        for path in _paths(course.masters)
    }


def expectations(course: Course, executor: Executor | None = None) -> dict[Path, str]:
    """The public results of every lab: what its master gives without the hidden checks."""
    masters = {path.stem: read_notebook(path) for path in _paths(course.masters)}
    notebooks = {
        stem: with_own_answers(public(master), read_metadata(master, stem).seed)
        for stem, master in masters.items()
    }
    runs = (executor or LocalExecutor()).run(notebooks) if notebooks else {}
    return {
        course.expected(course.labs / f"{stem}.ipynb"): _expected(
            masters[stem], stem, outputs_of_master(stem, notebook, runs[stem])
        )
        for stem, notebook in notebooks.items()
    }


def _expected(master: Notebook, stem: str, outputs: Outputs) -> str:
    results = {
        exercise.name: [record.to_json() for record in records_in(outputs[exercise.check])]
        for exercise in exercises(master, stem)
    }
    document = {"schema": 1, "seed": read_metadata(master, stem).seed, "exercises": results}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _paths(folder: Path) -> list[Path]:
    return [folder / f"{name}.ipynb" for name in notebook_names(folder)]


GENERATORS: dict[str, Generator] = {
    "notebooks": notebooks,
    "labs": labs,
    "expected": expectations,
}


def refreshed(stored: Notebook, fresh: Notebook, *, keep: bool = True) -> Notebook:
    """``stored`` with the outputs of ``fresh`` where they say something else.

    Parameters
    ----------
    keep : bool
        Keep a stored output with which the fresh one agrees by the records' rules, so that a
        re-execution leaves no diff. A changed picture does not show: pass False after an edit
        of the code that draws it.
    """
    result = normalised(stored)
    for old, new in zip(code_cells(result), code_cells(fresh), strict=True):
        if not (keep and _agrees(old, new)):
            old["outputs"] = new["outputs"]
        old["execution_count"] = 1
    return committed(result)


def _agrees(old: Cell, new: Cell) -> bool:
    if old["execution_count"] is None and old["source"].strip():
        return False
    if differences_in(old["outputs"], new["outputs"]) or _hints(old) != _hints(new):
        return False
    return _rest(old) == _rest(new)


def _hints(cell: Cell) -> list[str]:
    return [record.hint for record in records_in(cell["outputs"])]


def _rest(cell: Cell) -> list[object]:
    """The outputs that no record covers, without pictures, as nbval compares them."""
    rest: list[object] = []
    for output in cell["outputs"]:
        if holds_records(output):
            continue
        data = output.get("data", {})
        texts = {mime: value for mime, value in data.items() if not mime.startswith("image/")}
        words = (output.get(key) for key in ("output_type", "name", "text", "ename"))
        rest.append((*words, texts))
    return rest
