"""What ``model.json`` says: format, files, input and output, scaling, metrics, lineage."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MANIFEST = "model.json"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


class Part(BaseModel):
    """Base of what a manifest is made of."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class InputSpec(Part):
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


class TensorSpec(Part):
    """What the model gives for one instance: a tensor of ``shape``, ``()`` for one number."""

    name: str
    shape: tuple[int, ...] = Field(max_length=8)
    dtype: Literal["uint8", "int8", "int64", "float16", "float32"] = "float32"


class Scaling(Part):
    """What turns an instance into the model's input: ``(x * factor - mean) / std``, per channel.

    Absent where the graph scales by itself.
    """

    factor: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


class Metric(Part):
    """A number with what it was measured on: ``n`` instances of the split ``split``."""

    value: float
    n: int = Field(ge=1)
    split: str


class Lineage(Part):
    """Where the model comes from."""

    data: str
    libraries: dict[str, str]
    seed: int
    recipe: str = ""


class ModelManifest(Part):
    """The contents of ``model.json``.

    Attributes
    ----------
    name, version : str
        The model, and what its maker calls this state of it. The registry counts by itself.
    format : str
        ``onnx`` (a graph), ``safetensors`` (weights, with the architecture named in
        ``lineage.recipe``) or ``tflite``.
    files : dict
        File name → ``sha256:<hex>``.
    labels : tuple of str
        In the order of the model's outputs; empty where there are none.
    """

    # A name is a metric's label and part of file names, so it is a plain word.
    name: str = Field(pattern=NAME)
    version: str = Field(pattern=NAME)
    format: Literal["onnx", "safetensors", "tflite"]
    files: dict[str, str] = Field(min_length=1)
    input: InputSpec
    output: TensorSpec | None = None
    scaling: Scaling | None = None
    labels: tuple[str, ...] = ()
    metrics: dict[str, Metric] = {}
    lineage: Lineage

    @model_validator(mode="after")
    def _plain_names(self) -> Self:
        for name in self.files:
            plain = name and not name.startswith(".") and not set(name) & set("/\\\0")
            if not plain or name == MANIFEST:
                raise ValueError(f"a file of a bundle has a plain name, found {name!r}")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("labels must differ from each other")
        return self
