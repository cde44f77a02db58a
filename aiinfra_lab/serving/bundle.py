"""The bundles that are served: ``model.json`` and the ONNX graph ``model.onnx``.

They are bundles of the registry (``aiinfra_lab.registry.bundle``) with a graph. Pre-processing
lies inside the graph, so a client sends what a camera sends and cannot scale it in another way
than the training did. The bytes that are digested are the bytes that are used: a folder that
changes in between is caught.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from aiinfra_lab.registry.bundle import read_files, write_files
from aiinfra_lab.registry.manifest import MANIFEST, InputSpec, Lineage, Metric, ModelManifest

GRAPH = "model.onnx"
__all__ = [
    "GRAPH",
    "MANIFEST",
    "Bundle",
    "InputSpec",
    "Lineage",
    "Manifest",
    "Metric",
    "read_bundle",
    "write_bundle",
]


class Manifest(ModelManifest):
    """The contents of ``model.json`` for a model that is served.

    Attributes
    ----------
    name, version : str
        What answers are signed with.
    labels : tuple of str
        In the order of the graph's probabilities.
    """

    format: Literal["onnx"] = "onnx"
    labels: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _has_graph(self) -> Self:
        if GRAPH not in self.files:
            raise ValueError(f"files must name {GRAPH}")
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
    manifest, files = read_files(folder, Manifest, {GRAPH})
    return Bundle(Path(folder), manifest, files[GRAPH])


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
    return write_files(folder, manifest, {GRAPH: graph})
