"""What one training is: everything that decides its result, and how it is carried out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aiinfra_lab.errors import InputError
from aiinfra_lab.files import write_json

CONFIG = "config.json"


class TrainingConfig(BaseModel):
    """The settings of a run; the first group decides the result, the second how it comes about.

    ``TrainingConfig.of(epochs=1, seed=6)`` gives one, with a sentence for what cannot be used.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: Literal["mlp", "resnet20", "resnet20-gn", "resnet50"] = Field(
        "resnet20", description="The architecture; mlp and resnet20-gn have no batch statistics."
    )
    epochs: int = Field(2, ge=1, description="Passes over the training images.")
    batch_size: int = Field(64, ge=1, description="Samples of a step, over all ranks.")
    samples: int | None = Field(None, ge=1, description="Take only the first so many images.")
    learning_rate: float = Field(0.05, gt=0, description="Of SGD, after the warm-up.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Of SGD.")
    weight_decay: float = Field(5e-4, ge=0, description="Of SGD.")
    warmup: float = Field(0.1, ge=0, le=1, description="Share of the steps with a rising rate.")
    dropout: float = Field(0.0, ge=0, lt=1, description="In front of the last layer.")
    clip_norm: float | None = Field(None, gt=0, description="Largest norm of the gradient.")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="Of the forward pass; weights stay float32."
    )
    seed: int = Field(6, ge=0, lt=2**32, description="Of weights, order and dropout.")

    accumulate: int = Field(1, ge=1, description="Micro-batches that a rank's piece is cut into.")
    strategy: Literal["ddp", "fsdp"] = Field(
        "ddp", description="ddp: every rank holds all weights; fsdp: its share of them."
    )
    compress: Literal["none", "bf16", "powersgd"] = Field(
        "none", description="What travels in place of the gradients; ddp only."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: a GPU where each rank has its own, else the CPU."
    )
    checkpoint_every: int = Field(25, ge=1, description="Steps between two checkpoints.")
    keep: int = Field(3, ge=1, description="Checkpoints that stay.")
    timeout_s: float = Field(30.0, gt=0, description="Seconds that a rank waits for the others.")
    log_every: int = Field(10, ge=1, description="Steps between two entries in metrics.jsonl.")
    register_as: str | None = Field(
        None, description="Name in the model registry; the run is recorded there too."
    )

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.strategy == "fsdp" and self.compress != "none":
            raise ValueError("compress works with ddp only: fsdp reduces its shards by itself")
        if self.samples is not None and self.batch_size > self.samples:
            raise ValueError(f"a batch of {self.batch_size} is larger than {self.samples} samples")
        return self

    @classmethod
    def of(cls, **words: Any) -> TrainingConfig:
        """A configuration of these words.

        Raises
        ------
        InputError
            One of them cannot be used.
        """
        try:
            return cls(**words)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else "the configuration"
            reason = first["msg"].removeprefix("Value error, ")
            found = repr(first["input"]) if first["loc"] else None
            raise InputError(f"{name} cannot be used: {reason}", found=found) from None

    @property
    def decisive(self) -> dict[str, Any]:
        """What two runs must share to be the same run."""
        return self.model_dump(mode="json", include=set(_DECISIVE))

    def claim(self, folder: Path) -> None:
        """Make ``folder`` the place of this run, or find that it is.

        Raises
        ------
        InputError
            Another run lies there.
        """
        file = folder / CONFIG
        if not file.exists():
            write_json(file, self.decisive)
            return
        try:
            found = json.loads(file.read_text("utf-8"))
        except ValueError:
            raise InputError(f"{file} cannot be read", fix="Train in another folder.") from None
        differing = [name for name in _DECISIVE if found.get(name) != self.decisive[name]]
        if differing:
            name = differing[0]
            raise InputError(
                f"another run lies in {folder}: its {name} is {found.get(name)!r}",
                needed=repr(self.decisive[name]),
                fix="Give the run another --out, or the words of the run that lies there.",
            )


_DECISIVE = tuple(TrainingConfig.model_fields)[
    : list(TrainingConfig.model_fields).index("seed") + 1
]
