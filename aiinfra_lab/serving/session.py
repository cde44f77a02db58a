"""A bundle that is ready to answer: its graph in onnxruntime, checked and warmed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]

from aiinfra_lab.errors import InputError
from aiinfra_lab.serving.bundle import GRAPH, Manifest, read_bundle

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ERRORS_ONLY = 3
_TYPES = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}


class Session:
    """A loaded model; several threads may call ``predict`` at once."""

    def __init__(self, manifest: Manifest, inference: Any) -> None:
        self.manifest, self._inference = manifest, inference
        self._input = inference.get_inputs()[0].name
        self._output = inference.get_outputs()[0].name

    @classmethod
    def open(cls, folder: str | Path) -> Session:
        """Load the bundle in ``folder`` and run it once.

        The first run of a graph allocates and costs many times a later one; nobody's request
        should pay that.

        Raises
        ------
        InputError
            The bundle is broken, is no ONNX graph, or its graph is not what its manifest says.
        """
        bundle = read_bundle(folder)
        options = ort.SessionOptions()
        # Requests run side by side in the server's own threads: a graph that brought a pool of
        # its own would fight them for the cores.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        try:
            inference = ort.InferenceSession(
                bundle.graph, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors have no common root
            raise InputError(
                f"{bundle.folder / GRAPH} is no ONNX graph that can be loaded: {_line(error)}"
            ) from None
        _check_signature(bundle.manifest, inference, bundle.folder)
        session = cls(bundle.manifest, inference)
        session._warm_up(bundle.folder)
        return session

    def predict(self, instances: NDArray[Any]) -> NDArray[np.float32]:
        """Probabilities, shape (n, labels), for instances of shape (n, *input.shape)."""
        probabilities: NDArray[np.float32] = self._inference.run(
            [self._output], {self._input: instances}
        )[0]
        return probabilities

    def _warm_up(self, folder: Path) -> None:
        spec = self.manifest.input
        instances = np.full((2, *spec.shape), spec.low, spec.dtype)
        try:
            found = self.predict(instances)
        except Exception as error:
            raise InputError(f"the graph in {folder} cannot run: {_line(error)}") from None
        wanted = (2, len(self.manifest.labels))
        if found.shape != wanted or not np.isfinite(found).all():
            raise InputError(
                f"the graph in {folder} does not give one finite probability for each label",
                needed=f"shape {wanted}",
                found=f"shape {found.shape}",
            )


def _check_signature(manifest: Manifest, inference: Any, folder: Path) -> None:
    inputs, outputs = inference.get_inputs(), inference.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise InputError(
            f"the graph in {folder} must have one input and one output",
            found=f"{len(inputs)} and {len(outputs)}",
        )
    wanted, found = _TYPES[manifest.input.dtype], inputs[0].type
    shape = tuple(inputs[0].shape[1:])
    if found != wanted or shape != manifest.input.shape or isinstance(inputs[0].shape[0], int):
        raise InputError(
            f"the graph in {folder} does not take the input that its manifest names",
            needed=f"{wanted} of shape {('n', *manifest.input.shape)}",
            found=f"{found} of shape {tuple(inputs[0].shape)}",
        )


def _line(error: Exception) -> str:
    """The first line of an error that may have many, without the full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")[:300]
