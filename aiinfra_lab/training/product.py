"""What a training leaves: the weights as a bundle, their digest, and their place in the registry.

A run has one id, written down at its first start. The registry is asked under that id, so a run
that is cut off and resumed, or whose last step is retried, is recorded and registered once.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aiinfra_lab.files import write_json
from aiinfra_lab.training.config import TrainingConfig
from aiinfra_lab.training.journal import read_journal
from aiinfra_lab.training.result import RESULT, Result

if TYPE_CHECKING:
    from aiinfra_lab.data import ImageSet
    from aiinfra_lab.registry import ModelVersion

EXPERIMENT = "distributed-training"
BUNDLE, WEIGHTS, RUN = "model", "weights.safetensors", "run.json"


def digest_weights(weights: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, as 64 hexadecimal digits."""
    total = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        total.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def write_model(
    folder: Path, weights: dict[str, Tensor], config: TrainingConfig, result: Result, data: ImageSet
) -> Path:
    """Write the bundle ``model/`` of the run in ``folder``."""
    from safetensors.torch import save

    from aiinfra_lab.registry import InputSpec, Lineage, Metric, ModelManifest, write_files

    manifest = ModelManifest(
        name=config.register_as or f"digits-{config.model}",
        version=result.model_sha256[:12],
        format="safetensors",
        files={WEIGHTS: ""},
        input=InputSpec(shape=(1, 32, 32), dtype="float32", low=0, high=1),
        labels=data.classes,
        metrics={
            "test_accuracy": Metric(
                value=result.test_accuracy, n=result.test_samples, split="test"
            ),
            "test_loss": Metric(value=result.test_loss, n=result.test_samples, split="test"),
        },
        lineage=Lineage(
            data=data.digest,
            libraries={"torch": torch.__version__.partition("+")[0]},
            seed=config.seed,
            recipe=json.dumps(config.decisive, sort_keys=True),
        ),
    )
    target = folder / BUNDLE
    shutil.rmtree(target, ignore_errors=True)  # of an attempt that ended between here and there
    whole = {name: tensor.contiguous() for name, tensor in weights.items()}
    return write_files(target, manifest, {WEIGHTS: save(whole)})


def run_key(folder: Path) -> str:
    """The id of the run in ``folder``, made at the first call."""
    file = folder / RUN
    if not file.exists():
        write_json(file, {"id": uuid.uuid4().hex})
    return str(json.loads(file.read_text("utf-8"))["id"])


def register(folder: Path, config: TrainingConfig) -> ModelVersion:
    """Record the run in ``folder`` and register its model, once whatever is retried.

    Raises
    ------
    RegistryAway
        The registry cannot be reached. The model is in ``folder``; the same training with the
        same folder has nothing left to train and registers it.
    """
    from aiinfra_lab.registry import RegistryAway

    try:
        return _registered(folder, config)
    except RegistryAway as error:
        away = RegistryAway(
            f"{error.message}; the trained model is kept in {folder / BUNDLE}",
            fix="Train again with the same --out when it answers: the model is only registered.",
        )
        away.kept = str(folder / BUNDLE)
        raise away from None


def _registered(folder: Path, config: TrainingConfig) -> ModelVersion:
    from aiinfra_lab.registry import UnknownModel, open_registry

    registry = open_registry()
    key = f"train:{run_key(folder)}"
    name = config.register_as or f"digits-{config.model}"
    try:
        if known := [version for version in registry.versions(name) if version.key == key]:
            return known[0]
    except UnknownModel:
        pass
    result: dict[str, Any] = json.loads((folder / RESULT).read_text("utf-8"))
    with registry.runs.run(EXPERIMENT, params=config.decisive, tags={"key": key}) as run:
        for entry in read_journal(folder):
            run.log(entry["step"], train_loss=entry["loss"], train_accuracy=entry["accuracy"])
        run.log(result["steps"], **{n: result[n] for n in ("test_loss", "test_accuracy")})
        return registry.register(folder / BUNDLE, name=name, key=key)
