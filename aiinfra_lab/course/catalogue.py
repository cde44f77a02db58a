"""The catalogue: every chapter of the course, what exists of it, and what is planned."""

from __future__ import annotations

from pydantic import BaseModel

from aiinfra_lab.course.layout import Course, notebook_names
from aiinfra_lab.course.metadata import read_metadata
from aiinfra_lab.course.notebooks import read_notebook

# The plan of the course. A chapter that exists is described by its notebook alone.
PLANNED = {
    "00": "How to work, and what this machine can do",
    "01": "From requirements to sizes to manifests",
    "02": "Event-driven machine learning",
    "03": "Circuit breaker",
    "04": "A pipeline with a gate",
    "05": "Tests of models and data, and drift",
    "06": "Distributed training",
    "07": "A Kubernetes operator for training jobs",
    "08": "Serverless inference",
    "09": "Models for the edge",
    "10": "Federated learning",
    "11": "Production practices",
}


class Entry(BaseModel):
    """One chapter or page."""

    id: str
    title: str
    status: str
    minutes: int | None = None
    needs: tuple[str, ...] = ()
    notebook: str = ""
    lab: str = ""


def catalogue(course: Course) -> list[Entry]:
    """Every chapter in order, then the pages."""
    entries = {number: Entry(id=number, title=t, status="planned") for number, t in PLANNED.items()}
    labs = {name.partition("_")[0] for name in notebook_names(course.labs)}
    for name in notebook_names(course.chapters):
        path = course.chapters / f"{name}.ipynb"
        metadata = read_metadata(read_notebook(path), path.name)
        entries[metadata.id] = Entry(
            id=metadata.id,
            title=metadata.title,
            status="ready",
            minutes=metadata.minutes,
            needs=metadata.needs,
            notebook=path.relative_to(course.root).as_posix(),
            lab="yes" if metadata.id in labs else "",
        )
    return [entries[key] for key in sorted(entries)]
