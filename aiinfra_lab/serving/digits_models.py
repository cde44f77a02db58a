"""Two models of the handwritten digits, trained here and kept as bundles.

Version 1 is a logistic regression, version 2 a network with one hidden layer that also sees
every training image moved by one pixel in four directions. A served model is a folder, so
scikit-learn and skl2onnx are loaded here and never by a server.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiinfra_lab.errors import InputError
from aiinfra_lab.files import digest_file
from aiinfra_lab.serving.bundle import InputSpec, Lineage, Manifest, Metric, write_bundle

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from aiinfra_lab.data import Images

SEED = 3
PROBABILITIES = "probabilities"
# Chosen on the validation split; the test split is only reported.
RECIPES: dict[str, dict[str, Any]] = {
    "1": {"model": "LogisticRegression", "C": 0.1, "max_iter": 300, "tol": 1e-3},
    "2": {
        "model": "MLPClassifier",
        "hidden_layer_sizes": [128],
        "alpha": 1e-2,
        "learning_rate_init": 2e-3,
        "batch_size": 128,
        "max_iter": 8,
        "shifts": 1,
    },
}
_LIBRARIES = ("numpy", "onnx", "scikit-learn", "skl2onnx")


def digits_bundle(version: str = "1") -> Path:
    """The bundle of the digits model ``version``, trained the first time (a few seconds).

    It is kept in the user's cache under a key of the data, the recipe, the libraries and this
    module, so that a change of any of them trains anew. Several processes may ask at once.

    Raises
    ------
    InputError
        There is no such version.
    """
    folder = bundle_folder(version)
    if is_trained(version):
        return folder
    classifier = train(version)
    return write_bundle(folder, _manifest(version, classifier), export(classifier))


def is_trained(version: str) -> bool:
    """Whether a whole bundle of this version lies in the cache."""
    from aiinfra_lab.serving.bundle import read_bundle

    try:
        read_bundle(bundle_folder(version))
    except InputError:
        _recipe(version)
        return False
    return True


def bundle_folder(version: str) -> Path:
    """Where the bundle of this version lies, or will lie."""
    from aiinfra_lab.data import load_digits
    from aiinfra_lab.settings import settings

    # This file's own digest: a changed way to train or to export is a changed model.
    parts = [load_digits().digest, _recipe(version), _libraries(), digest_file(__file__)]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    return settings().cache / "models" / f"digits-{version}-{key}"


def _recipe(version: str) -> dict[str, Any]:
    if version not in RECIPES:
        raise InputError(
            f"there is no version {version!r} of the digits model", needed=" or ".join(RECIPES)
        )
    return RECIPES[version]


def _libraries() -> dict[str, str]:
    return {name: installed(name) for name in _LIBRARIES}


def train(version: str) -> Any:
    """The fitted scikit-learn classifier; its input is pixels in 0..1, shape (n, 784)."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    from aiinfra_lab.data import load_digits

    options = dict(_recipe(version))
    kinds = {"LogisticRegression": LogisticRegression, "MLPClassifier": MLPClassifier}
    kind, shifts = kinds[options.pop("model")], options.pop("shifts", 0)
    pixels, labels = _moved(load_digits().train, shifts)
    # One thread: such small products gain nothing from more, lose much beside other work, and
    # the sums come out the same whatever the number of cores.
    with warnings.catch_warnings(), threadpool_limits(1):
        # The number of epochs is part of the recipe: stopping there is no fault.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return kind(random_state=SEED, **options).fit(flat(pixels), labels)


def flat(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Images as rows of numbers in 0..1: what the classifiers take, and what the graph does."""
    import numpy as np

    return pixels.reshape(len(pixels), -1).astype(np.float32) / np.float32(255)


def _moved(images: Images, by: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    import numpy as np

    if not by:
        return images.pixels, images.labels
    # The digits stand in a wide margin: what leaves on one side is background.
    copies = [np.roll(images.pixels, step, axis) for axis in (1, 2) for step in (-by, by)]
    pixels = np.concatenate([images.pixels, *copies])
    return pixels, np.tile(images.labels, 1 + len(copies))


def export(classifier: Any) -> bytes:
    """The classifier as an ONNX graph from uint8 pixels (n, 28, 28) to probabilities (n, 10)."""
    from onnx import TensorProto, checker, helper
    from skl2onnx import to_onnx  # type: ignore[import-untyped]
    from skl2onnx.common.data_types import (  # type: ignore[import-untyped]
        FloatTensorType,
    )

    model: Any = to_onnx(
        classifier,
        initial_types=[("scaled", FloatTensorType([None, 784]))],
        options={"zipmap": False},
        target_opset={"": 17, "ai.onnx.ml": 3},
    )
    graph = model.graph
    constants = [
        helper.make_tensor("full_ink", TensorProto.FLOAT, [], [255.0]),
        helper.make_tensor("row", TensorProto.INT64, [2], [-1, 784]),
    ]
    scaling = [
        helper.make_node("Cast", ["pixels"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["numbers", "row"], ["rows"]),
        helper.make_node("Div", ["rows", "full_ink"], ["scaled"]),
    ]
    nodes, rest = list(graph.node), [o for o in graph.output if o.name == PROBABILITIES]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend([*scaling, *nodes])
    graph.initializer.extend(constants)
    graph.input.append(helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", 28, 28]))
    graph.output.extend(rest)
    checker.check_model(model)
    return bytes(model.SerializeToString())


def _manifest(version: str, classifier: Any) -> Manifest:
    from aiinfra_lab.data import load_digits

    digits = load_digits()
    metrics = {
        f"{split}_accuracy": Metric(
            value=float(classifier.score(flat(part.pixels), part.labels)), n=len(part), split=split
        )
        for split, part in (("validation", digits.validation), ("test", digits.test))
    }
    return Manifest(
        name="digits",
        version=version,
        files={"model.onnx": ""},
        input=InputSpec(shape=(28, 28), dtype="uint8", low=0, high=255),
        labels=digits.classes,
        metrics=metrics,
        lineage=Lineage(
            data=digits.digest,
            libraries=_libraries(),
            seed=SEED,
            recipe=json.dumps(_recipe(version), sort_keys=True),
        ),
    )
