"""How a training ended, as ``result.json`` says it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from aiinfra_lab.files import write_json

RESULT = "result.json"


@dataclass(frozen=True)
class Result:
    """How a run ended. Its means are over all samples of all ranks, each counted once."""

    model_sha256: str
    model: str
    seed: int
    epochs: int
    steps: int
    world: int
    samples: int
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    test_samples: int
    resumed_from: int | None
    restarts: int
    out: str


def write_result(folder: Path, result: Result) -> None:
    """Write the result of the run in ``folder``."""
    write_json(folder / RESULT, asdict(result))


def read_result(folder: str | Path) -> Result | None:
    """The result of the run in ``folder``; None if it has not come to its end."""
    try:
        return Result(**json.loads((Path(folder) / RESULT).read_text("utf-8")))
    except FileNotFoundError:
        return None
