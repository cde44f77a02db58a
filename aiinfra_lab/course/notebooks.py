"""Notebooks as plain JSON: read with care, written so that a diff shows only what changed.

nbformat is left to the tools that execute: importing it beside JupyterLab takes more than a
second, and a validation of JSON Schema says less to a person than the sentences below.
"""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiinfra_lab.errors import InputError
from aiinfra_lab.files import write_text

Notebook = dict[str, Any]
Cell = dict[str, Any]

_NBFORMAT, _MINOR = 4, 5
# What tools add to a notebook and nobody reads again.
_VOLATILE_CELL = {"execution", "papermill", "collapsed", "ExecuteTime", "trusted", "scrolled"}
_KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
# Besides text/*, what nbformat writes line by line; a picture stays one string.
_SPLIT = {"application/javascript", "image/svg+xml"}
_CELL_ID = re.compile(r"^[a-zA-Z0-9_-]{1,64}$")


def read_notebook(path: str | Path, *, strict: bool = True) -> Notebook:
    """Read a notebook; texts come as strings, never as lists of lines.

    A stranger's notebook is read with ``strict=False``: two cells with one id are its reader's
    to sort out.

    Raises
    ------
    InputError
        There is no such file, or it cannot be used; one sentence says why.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: a number of 5000 digits
        raise InputError(
            f"{path.name} is not a notebook: it is not JSON ({error})",
            fix="If an editor saved it in the middle of a merge, take one side of the merge.",
        ) from None
    return _checked(data, path.name, strict)


def _checked(data: Any, name: str, strict: bool) -> Notebook:
    if not isinstance(data, dict) or not isinstance(data.get("nbformat"), int):
        raise InputError(f"{name} is not a notebook: it has no nbformat number")
    version = (data["nbformat"], data.get("nbformat_minor", 0))
    if not isinstance(version[1], int) or not (_NBFORMAT, 0) <= version <= (_NBFORMAT, _MINOR):
        raise InputError(
            f"{name} is written in another notebook format",
            needed=f"nbformat {_NBFORMAT}.{_MINOR} or older of {_NBFORMAT}",
            found=".".join(map(str, version)),
            fix="Open it in JupyterLab and save it again.",
        )
    if not isinstance(data.setdefault("metadata", {}), dict):
        raise InputError(f"{name} is not a notebook: its metadata cannot be read")
    cells = data.get("cells")
    if not isinstance(cells, list) or not all(_is_cell(cell) for cell in cells):
        raise InputError(f"{name} is not a notebook: its cells cannot be read")
    counts = Counter(cell["id"] for cell in cells if "id" in cell)
    if strict and (repeated := [cell_id for cell_id, count in counts.items() if count > 1]):
        raise InputError(
            f"{name} has two cells with the id {repeated[0]!r}",
            fix="Delete one of them, or copy its text into a new cell.",
        )
    for cell in cells:
        cell["source"] = _joined(cell["source"])
        cell.setdefault("metadata", {})
        for output in cell.get("outputs", []):
            _join_output(output)
    return data


def _is_cell(cell: Any) -> bool:
    return (
        isinstance(cell, dict)
        and cell.get("cell_type") in ("code", "markdown", "raw")
        and isinstance(cell.get("id", ""), str)
        and isinstance(cell.get("source"), (str, list))
        and isinstance(cell.get("metadata", {}), dict)
        and isinstance(cell.get("outputs", []), list)
        and all(isinstance(output, dict) for output in cell.get("outputs", []))
    )


def _join_output(output: dict[str, Any]) -> None:
    if "text" in output:
        output["text"] = _joined(output["text"])
    data = output.get("data")
    if isinstance(data, dict):
        for mime, value in data.items():
            if not mime.endswith("json"):
                data[mime] = _joined(value)


def _joined(text: Any) -> str:
    return "".join(map(str, text)) if isinstance(text, list) else str(text)


def normalised(notebook: Notebook) -> Notebook:
    """A copy in the form that is committed.

    Volatile metadata goes, executed cells are counted 1, 2, 3, …, streams of one name are one
    output, and a cell without an id gets one that is derived from its place.
    """
    result = copy.deepcopy(notebook)
    metadata = {
        key: result["metadata"][key] for key in ("aiinfra_lab",) if key in result["metadata"]
    }
    metadata["kernelspec"] = dict(_KERNELSPEC)
    metadata["language_info"] = {"name": "python"}
    count = 0
    taken = {cell.get("id") for cell in result["cells"]}
    for index, cell in enumerate(result["cells"]):
        if not _CELL_ID.match(str(cell.get("id", ""))):
            cell["id"] = _free_id(f"cell-{index + 1}", taken)
        for key in _VOLATILE_CELL & cell["metadata"].keys():
            del cell["metadata"][key]
        if cell["cell_type"] == "code":
            cell["outputs"] = _merged_streams(cell.get("outputs", []))
            executed = cell.get("execution_count") is not None
            count += executed
            cell["execution_count"] = count if executed else None
            for output in cell["outputs"]:
                if "execution_count" in output:
                    output["execution_count"] = cell["execution_count"]
    return {
        "cells": result["cells"],
        "metadata": metadata,
        "nbformat": _NBFORMAT,
        "nbformat_minor": _MINOR,
    }


def _free_id(wanted: str, taken: set[Any]) -> str:
    while wanted in taken:
        wanted += "a"
    return wanted


def _merged_streams(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    merged: list[dict[str, Any]] = []
    for output in outputs:
        previous = merged[-1] if merged else {}
        if output.get("output_type") == "stream" and previous.get("name") == output.get("name"):
            previous["text"] += output["text"]
        else:
            merged.append(output)
    return merged


def dumps(notebook: Notebook) -> str:
    """The file's text, byte for byte as JupyterLab would save the same notebook."""
    return json.dumps(_split(notebook), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _split(notebook: Notebook) -> Notebook:
    result = copy.deepcopy(notebook)
    for cell in result["cells"]:
        cell["source"] = cell["source"].splitlines(keepends=True)
        for output in cell.get("outputs", []):
            if "text" in output:
                output["text"] = output["text"].splitlines(keepends=True)
            data = output.get("data", {})
            for mime, value in data.items():
                if isinstance(value, str) and (mime.startswith("text/") or mime in _SPLIT):
                    data[mime] = value.splitlines(keepends=True)
    return result


def write_notebook(path: str | Path, notebook: Notebook) -> None:
    """Write a notebook in its normalised form, atomically."""
    write_text(path, dumps(normalised(notebook)))


def code_cells(notebook: Notebook) -> Iterator[Cell]:
    """The code cells, in order."""
    return (cell for cell in notebook["cells"] if cell["cell_type"] == "code")


def tags(cell: Cell) -> frozenset[str]:
    """The tags of a cell; whatever else stands there is none."""
    found = cell["metadata"].get("tags", [])
    return (
        frozenset(tag for tag in found if isinstance(tag, str))
        if isinstance(found, list)
        else frozenset()
    )


def tag_value(cell: Cell, name: str) -> str | None:
    """The text after ``name=`` in a tag, such as ``120`` in ``timeout=120``."""
    values = [tag.removeprefix(f"{name}=") for tag in tags(cell) if tag.startswith(f"{name}=")]
    return values[0] if values else None


def stripped(notebook: Notebook) -> Notebook:
    """A copy without outputs."""
    result = copy.deepcopy(notebook)
    for cell in code_cells(result):
        cell["outputs"], cell["execution_count"] = [], None
    return result
