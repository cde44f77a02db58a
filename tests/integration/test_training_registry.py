"""A training is recorded and registered once, whatever is retried, also where nobody answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aiinfra_lab.engines import S3Server
from aiinfra_lab.registry import Registry

pytestmark = pytest.mark.needs("torch", "mlflow")

WORDS = (
    *("-m", "aiinfra_lab.training", "--model", "mlp", "--epochs", "1"),
    *("--samples", "128", "--batch-size", "32", "--register-as", "tiny"),
)


def train(out: Path, home: Path, *, url: str = "", code: int = 0, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, *WORDS, "--out", str(out)],
        env=os.environ
        | {"AIINFRA_HOME": str(home), "AIINFRA_MLFLOW_URL": url, "AIINFRA_PROGRESS": "off"}
        | env,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == code, f"{done.returncode}\n{done.stderr[-3000:]}"
    return done.stderr


def registry(home: Path) -> Registry:
    return Registry(home / "registry", home / "bundles")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    out, home = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("home")
    train(out, home)
    return out, home


def test_the_model_lies_in_the_registry_with_its_run(trained: tuple[Path, Path]) -> None:
    out, home = trained
    result = json.loads((out / "result.json").read_text())

    version = registry(home).describe("tiny")

    assert version.metrics["test_accuracy"] == result["test_accuracy"]
    assert json.loads(version.lineage["recipe"])["model"] == "mlp"
    client = registry(home).backend.client
    history = client.get_metric_history(version.run_id, "train_loss")
    assert [point.step for point in history] == [4]
    assert client.get_run(version.run_id).data.params["batch_size"] == "32"


def test_doing_it_again_registers_nothing_new(trained: tuple[Path, Path]) -> None:
    out, home = trained
    (out / "result.json").unlink()  # as if it had been cut off before the end

    train(out, home)

    (version,) = registry(home).versions("tiny")
    client = registry(home).backend.client
    experiment = client.get_experiment_by_name("distributed-training")
    assert [run.info.run_id for run in client.search_runs([experiment.experiment_id])] == [
        version.run_id
    ]


def test_a_registry_that_is_away_loses_nothing(tmp_path: Path) -> None:
    out, home = tmp_path / "out", tmp_path / "home"

    said = train(out, home, url="http://127.0.0.1:9", code=3)

    assert "Traceback" not in said
    assert str(out) in said
    assert (out / "result.json").exists()
    train(out, home)
    assert len(registry(home).versions("tiny")) == 1


@pytest.mark.needs("moto", "boto3")
def test_the_model_may_lie_in_an_object_store(tmp_path: Path) -> None:
    with S3Server() as server:
        access = server.access
        with access.client() as client:
            client.create_bucket(Bucket="models")
        key = f"{access.access_key}:{access.secret_key}@"
        train(
            tmp_path / "out",
            tmp_path / "home",
            AIINFRA_S3_URL=access.url.replace("://", f"://{key}"),
            AIINFRA_ARTIFACTS_URL="s3://models/course",
        )
        with access.client() as client:
            listed = client.list_objects_v2(Bucket="models", Prefix="course/")["Contents"]
    names = {entry["Key"].rpartition("/")[2] for entry in listed}
    assert {"model.json", "weights.safetensors"} <= names
