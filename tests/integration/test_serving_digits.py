"""The two digits models: trained for real, and the graph says what scikit-learn says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aiinfra_lab.data import load_digits
from aiinfra_lab.errors import InputError
from aiinfra_lab.serving import digits_bundle, digits_models, read_bundle
from aiinfra_lab.serving.digits_models import bundle_folder, flat, is_trained, train
from aiinfra_lab.serving.session import Session


@pytest.mark.parametrize(("version", "least"), [("1", 0.87), ("2", 0.93)])
def test_the_graph_predicts_what_scikit_learn_predicts(version: str, least: float) -> None:
    folder, digits = digits_bundle(version), load_digits()
    session, classifier = Session.open(folder), train(version)
    ours, theirs = session.predict(digits.test.pixels), classifier.predict_proba
    np.testing.assert_allclose(ours, theirs(flat(digits.test.pixels)), atol=1e-5)
    found = float((ours.argmax(axis=1) == digits.test.labels).mean())
    manifest = read_bundle(folder).manifest
    assert manifest.version == version
    assert manifest.metrics["test_accuracy"].value == pytest.approx(found)
    assert manifest.metrics["test_accuracy"].n == 1000
    assert manifest.lineage.data == digits.digest
    assert found >= least


def test_it_is_trained_once_and_again_when_something_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = digits_bundle("1")
    assert is_trained("1")
    with monkeypatch.context() as patch:
        patch.setattr(digits_models, "train", lambda version: pytest.fail("trained again"))
        assert digits_bundle("1") == folder
    with monkeypatch.context() as patch:
        patch.setitem(digits_models.RECIPES["1"], "C", 0.2)
        assert bundle_folder("1") != folder
        assert not is_trained("1")
    with monkeypatch.context() as patch:
        patch.setattr(digits_models, "installed", lambda name: "0")
        assert bundle_folder("1") != folder
    (folder / "model.onnx").write_bytes(b"")
    assert not is_trained("1")
    assert digits_bundle("1") == folder
    read_bundle(folder)


def test_there_is_no_third_version() -> None:
    for ask in (digits_bundle, is_trained):
        with pytest.raises(InputError, match="no version '3' of the digits model; needed 1 or 2"):
            ask("3")


def loaded(statement: str, modules: list[str]) -> str:
    code = f"{statement}\nimport sys\nprint([m for m in {modules} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
        env={k: v for k, v in os.environ.items() if not k.startswith(("COV_", "COVERAGE"))},
    )
    return done.stdout.strip()


def test_a_server_never_loads_what_trains() -> None:
    rooms = ("__main__", "application", "faults", "listener", "session")
    statement = "import " + ", ".join(f"aiinfra_lab.serving.{room}" for room in rooms)
    trainers = ["sklearn", "skl2onnx", "onnx", "scipy", "pandas"]
    assert loaded(statement, [*trainers, "onnxruntime", "fastapi"]) == "['onnxruntime', 'fastapi']"


def test_a_parent_of_a_server_loads_no_server() -> None:
    heavy = ["onnxruntime", "fastapi", "uvicorn", "numpy", "pydantic", "asyncio"]
    statement = "from aiinfra_lab.serving import ModelServer\nModelServer('nowhere')"
    assert loaded(statement, heavy) == "[]"
