"""Small notebooks for the tests of what executes notebooks."""

from __future__ import annotations

from typing import Any

from aiinfra_lab.course.records import RECORD_MIME, Record

Json = dict[str, Any]


def code(cell_id: str, source: str, outputs: list[Json] | None = None, **metadata: Any) -> Json:
    """A code cell; with ``outputs`` it counts as executed."""
    return {
        "cell_type": "code",
        "id": cell_id,
        "metadata": metadata,
        "source": source,
        "outputs": outputs or [],
        "execution_count": None if outputs is None else 1,
    }


def record(name: str, value: Any, **demands: Any) -> Json:
    """The stored output of ``show``."""
    found = Record(name, value, **demands)
    return {
        "output_type": "display_data",
        "metadata": {},
        "data": {RECORD_MIME: found.to_json(), "text/plain": found.text()},
    }


def printed(text: str) -> Json:
    """The stored output of ``print``."""
    return {"output_type": "stream", "name": "stdout", "text": text}


def notebook(*cells: Json, kind: str = "chapter", **metadata: Any) -> Json:
    """A notebook of the course."""
    about = {"schema": 1, "kind": kind, "id": "00", "slug": "made", "title": "Made", "minutes": 1}
    return {
        "cells": list(cells),
        "metadata": {"aiinfra_lab": {**about, **metadata}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
